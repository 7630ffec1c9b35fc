"""Audacity's label track: start, end and text between tabs, in seconds, without a header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections
from pipeline.formats.clock_text import one_line


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """One line an event, six decimals as Audacity itself writes; labels may overlap."""
    return "".join(
        f"{event.start:.6f}\t{event.end:.6f}\t{one_line(event.label)}\n"
        for entry in detections
        for event in entry.events
    )
