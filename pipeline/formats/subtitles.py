"""SubRip (srt) and WebVTT (vtt): each event is a cue; cues of events at once overlap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections, Event, sort_events
from pipeline.formats.clock_text import clock, milliseconds, one_line


def render_srt(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """Numbered cues. SubRip knows no escapes: an arrow in a label loses a dash."""
    cues = []
    for number, event in enumerate(_events(detections), start=1):
        start, end = (clock(value, decimal=",") for value in milliseconds(event))
        label = one_line(event.label).replace("-->", "->")
        cues.append(f"{number}\n{start} --> {end}\n{label}\n")
    return "\n".join(cues)


def render_vtt(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """Cues with the characters escaped that WebVTT reserves: ``&``, ``<``, ``>``."""
    cues = ["WEBVTT\n"]
    for event in _events(detections):
        start, end = (clock(value, decimal=".") for value in milliseconds(event))
        label = one_line(event.label)
        label = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{start} --> {end}\n{label}\n")
    return "\n".join(cues)


def _events(detections: Sequence[Detections]) -> tuple[Event, ...]:
    return sort_events(event for entry in detections for event in entry.events)
