"""The results file of the ActivityNet challenge, which every evaluator of the field reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.events import Detections


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """``{"results": {video: [{"label", "score", "segment": [start, end]}]}}``, in seconds.

    A video without events keeps its empty list. Entries of the same name are joined.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for entry in detections:
        rows = results.setdefault(entry.video, [])
        rows.extend(
            {
                "label": event.label,
                "score": round(event.score, 6),
                "segment": [round(event.start, 6), round(event.end, 6)],
            }
            for event in entry.events
        )
    value = {"version": "VERSION 1.3", "results": results, "external_data": {}}
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
