"""Seconds as the whole milliseconds and clock texts that subtitle and annotation files want."""

from __future__ import annotations

from pipeline.core.events import Event


def milliseconds(event: Event) -> tuple[int, int]:
    """Start and end in whole milliseconds; at least one apart, as players drop empty cues."""
    start = max(0, round(event.start * 1000))
    return start, max(start + 1, round(event.end * 1000))


def clock(value: int, *, decimal: str) -> str:
    """``HH:MM:SS`` and milliseconds; hours grow past two digits when they must."""
    seconds, millis = divmod(value, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal}{millis:03d}"


def one_line(text: str) -> str:
    """The text with every run of white space as one space; a cue without any text would be lost."""
    return " ".join(text.split()) or "event"
