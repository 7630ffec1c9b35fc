"""One media file through a training-free detector: its stream into a scorer, chunk by chunk."""

from __future__ import annotations

import os
from typing import Protocol

from extractors.features import Rows, Summary
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice
from extractors.spec import Backbone
from extractors.stream import FeatureStream
from extractors.windows import WindowGrid
from pipeline.core.events import Curves, Detections, Event, sort_events


class RowScorer(Protocol):
    """Takes the rows of one video in any number of chunks, then finds the events."""

    def add(self, rows: Rows) -> None:
        """Take the next consecutive steps; what is not needed later is not kept."""
        ...

    def finish(self, grid: WindowGrid, duration: float) -> tuple[list[Event], Curves]:
        """Events, best first, and activation curves.

        Args:
            grid: Where the steps lie.
            duration: Seconds; events end there at the latest.
        """
        ...


def scan_video(
    path: str | os.PathLike[str],
    backbone: Backbone,
    scorer: RowScorer,
    *,
    detector: str,
    reader: ReaderChoice = "auto",
) -> Detections:
    """Events of one file on which sound and picture agree.

    Features go from the stream into the scorer and are dropped, so memory hardly grows with the
    length of the file.

    Args:
        path: The file.
        backbone: Loaded.
        scorer: Fresh.
        detector: Name of the detector in the result.
        reader: Video reader.

    Raises:
        MediaError: The file cannot be read.
    """
    stream = FeatureStream(probe(path), backbone, reader=reader)
    heard = seen = False
    for rows in stream:
        scorer.add(rows)
        heard = heard or bool(rows["audio_mask"].any())
        seen = seen or bool(rows["vision_mask"].any())
    summary = stream.summary
    events, curves = scorer.finish(backbone.spec.grid, summary.duration)
    return Detections(
        video=os.fspath(path),
        duration=summary.duration,
        events=sort_events(events),
        detector=detector,
        notes=_notes(summary, heard=heard, seen=seen),
        curves=curves,
    )


def _notes(summary: Summary, *, heard: bool, seen: bool) -> tuple[str, ...]:
    """The extraction's notes, and what they mean for a detector that needs both modalities."""
    notes = list(summary.notes)
    if summary.status == "partial":
        shares = ", ".join(f"{name} {share:.0%}" for name, share in summary.coverage.items())
        notes.append(f"partial result: decoded of what the file promises: {shares}")
    if not (heard and seen):
        missing = " and ".join(n for n, there in (("sound", heard), ("picture", seen)) if not there)
        notes.append(f"an event must be seen and heard; without {missing} none can be found")
    return tuple(notes)
