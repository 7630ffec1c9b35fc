"""Events that were read, put together by their videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.core.events import Detections, Event, sort_events

# Before the suffix, so that nothing that lies beside the user's video is ever overwritten.
MARK = ".events"
READ = "read from a file"  # in place of a detector's name, where a format keeps none


def gather(
    rows: Iterable[tuple[str, Event]], durations: Mapping[str, float] | None = None
) -> list[Detections]:
    """One entry a video, in the order of their first events.

    Args:
        rows: Video and event.
        durations: Seconds of the videos that are known, those without events among them; a video
            that is not there lasts to the end of its last event.
    """
    known = dict(durations or {})
    events: dict[str, list[Event]] = {video: [] for video in known}
    for video, event in rows:
        events.setdefault(video, []).append(event)
    return [
        Detections(
            video,
            max([known.get(video, 0.0), *(event.end for event in found)]),
            sort_events(found),
            READ,
        )
        for video, found in events.items()
    ]


def video_of(source: Path) -> str:
    """Name of the video that a file of one video is about: its own, as `write_folder` gave it."""
    return source.name.removesuffix(source.suffix).removesuffix(MARK)
