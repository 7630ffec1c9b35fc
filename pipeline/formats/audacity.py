"""Audacity's label track: start, end and text between tabs, in seconds, without a header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections, Event
from pipeline.formats.clock_text import one_line
from pipeline.formats.gather import gather, video_of


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """One line an event, six decimals as Audacity itself writes; labels may overlap."""
    return "".join(
        f"{event.start:.6f}\t{event.end:.6f}\t{one_line(event.label)}\n"
        for entry in detections
        for event in entry.events
    )


def parse(text: str, source: Path) -> list[Detections]:
    """One video with the name of the file; each label is an event with score 1.

    Lines that begin with a backslash hold the frequencies of a spectral selection and are left out.

    Raises:
        ValueError: A line is no label.
    """
    video, found = video_of(source), []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        try:
            start, end, label = line.split("\t", 2)
            found.append((video, Event(float(start), float(end), label, 1.0)))
        except ValueError as error:
            raise ValueError(f"line {number} is no label: {error}") from error
    return gather(found, {video: 0.0})
