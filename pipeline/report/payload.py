"""What the page must know of one video, as plain JSON values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from pipeline.core.events import AGREEMENT, Curves, Detections

CURVE_POINTS = 1500  # more than the pixels of a lane; a longer curve shows its maxima
MAX_LANES = 60


def video_payload(entry: Detections, folder: Path | None) -> dict[str, Any]:
    """Name, source, notes, lanes and events of one video.

    Classes with events come first, by their first event; then classes that only have a curve; last
    the agreement, which has a lane however many classes there are.
    """
    labels = list(dict.fromkeys(event.label for event in entry.events))
    if entry.curves is not None:
        labels += [label for label in entry.curves.labels if label not in set(labels)]
    last = [label for label in labels if label == AGREEMENT]
    labels = [*[label for label in labels if label != AGREEMENT][: MAX_LANES - len(last)], *last]
    lane = {label: index for index, label in enumerate(labels)}
    return {
        "name": entry.video,
        "source": media_reference(entry.video, folder),
        "duration": entry.duration,
        "detector": entry.detector,
        "notes": list(entry.notes),
        "lanes": [{"label": label, "curve": _curve(entry.curves, label)} for label in labels],
        "events": [
            {
                "lane": lane[event.label],
                "start": round(event.start, 3),
                "end": round(event.end, 3),
                "score": round(event.score, 4),
            }
            for event in entry.events
            if event.label in lane
        ],
        "hidden": len({event.label for event in entry.events} - set(labels)),
    }


def media_reference(video: str, folder: Path | None) -> str:
    """Address of the video as seen from a page in ``folder``; empty when there is no such file.

    Args:
        video: Path or id, as in `Detections.video`.
        folder: Where the page lies, or None for an absolute file address.
    """
    path = Path(video)
    if not os.path.isfile(video):  # noqa: PTH113 - also says no to what cannot be a name
        return ""
    if folder is None:
        return path.resolve().as_uri()
    try:
        relative = os.path.relpath(path.resolve(), folder.resolve())
    except ValueError:  # another drive
        return path.resolve().as_uri()
    # "./" keeps a name such as "a:b.mp4" from being read as an address with a scheme.
    return "./" + quote_from_bytes(os.fsencode(relative.replace(os.sep, "/")), safe="/")


def _curve(curves: Curves | None, label: str) -> dict[str, Any] | None:
    """First second, seconds a point, and values in whole hundredths."""
    if curves is None or label not in curves.labels or len(curves.times) == 0:
        return None
    values = curves.values[:, curves.labels.index(label)]
    pooled, factor = _pool(values, CURVE_POINTS)
    step = float(curves.times[1] - curves.times[0]) if len(curves.times) > 1 else 1.0
    first = float(curves.times[0]) + step * (factor - 1) / 2
    hundredths = np.rint(np.clip(pooled, 0, 1) * 100).astype(int)
    return {
        "first": round(first, 6),
        "step": round(step * factor, 6),
        "values": hundredths.tolist(),
    }


def _pool(values: NDArray[np.float32], points: int) -> tuple[NDArray[np.float32], int]:
    """At most ``points`` maxima of equal stretches, and the length of a stretch."""
    factor = max(1, -(-len(values) // points))
    padded = np.pad(values, (0, -len(values) % factor), mode="edge")
    pooled: NDArray[np.float32] = padded.reshape(-1, factor).max(axis=1)
    return pooled, factor
