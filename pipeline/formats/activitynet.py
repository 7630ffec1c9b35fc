"""The results file of the ActivityNet challenge, which every evaluator of the field reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.events import Detections, Event
from pipeline.formats.gather import gather


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


def parse(text: str, source: Path) -> list[Detections]:
    """A results file (``results``), or an annotation file (``database``), whose events score 1.

    Raises:
        ValueError: Neither of the two, or a row is no event.
        KeyError: A row lacks its label or segment.
    """
    value = json.loads(text)
    if "results" in value:
        videos = {str(name): rows for name, rows in value["results"].items()}
        durations = dict.fromkeys(videos, 0.0)
    elif "database" in value:
        entries = value["database"]
        videos = {str(name): entry.get("annotations", []) for name, entry in entries.items()}
        durations = {str(name): float(e.get("duration") or 0) for name, e in entries.items()}
    else:
        raise ValueError("it has neither results nor a database")
    found = []
    for video, rows in videos.items():
        for row in rows:
            start, end = row["segment"]
            score = float(row.get("score", 1.0))
            found.append((video, Event(float(start), float(end), str(row["label"]), score)))
    return gather(found, durations)
