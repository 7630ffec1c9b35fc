"""JSON: everything the program says about a video, for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections

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
