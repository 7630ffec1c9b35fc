"""JSON: everything the program says about a video, for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections, Event, sort_events

FORMAT = "davel-events"
VERSION = 1


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """Seconds with at most six decimals; ``videos`` keeps the order given."""
    videos = [
        {
            "video": entry.video,
            "duration": round(entry.duration, 6),
            "detector": entry.detector,
            "notes": list(entry.notes),
            "events": [
                {
                    "label": event.label,
                    "start": round(event.start, 6),
                    "end": round(event.end, 6),
                    "score": round(event.score, 6),
                }
                for event in entry.events
            ],
        }
        for entry in detections
    ]
    value = {"format": FORMAT, "version": VERSION, "videos": videos}
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str, source: Path) -> list[Detections]:
    """Inverse of `render`, to the last of its decimals; curves are in no file.

    Raises:
        ValueError: Another format or version, or an event that is none.
        KeyError: Something is missing.
    """
    value = json.loads(text)
    if value["format"] != FORMAT:
        raise ValueError(f"its format is {value['format']!r} and not {FORMAT!r}")
    if value["version"] != VERSION:
        raise ValueError(f"its version is {value['version']}, this program reads {VERSION}")
    return [
        Detections(
            str(entry["video"]),
            float(entry["duration"]),
            sort_events(
                Event(float(e["start"]), float(e["end"]), str(e["label"]), float(e["score"]))
                for e in entry["events"]
            ),
            str(entry["detector"]),
            tuple(map(str, entry["notes"])),
        )
        for entry in value["videos"]
    ]
