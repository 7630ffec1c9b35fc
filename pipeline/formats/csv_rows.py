"""CSV: one row an event; seconds with three decimals, always with a point."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections

COLUMNS = ("video", "label", "start", "end", "score")


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """A header and the rows; commas, quotes and newlines in names are quoted (RFC 4180)."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for entry in detections:
        for event in entry.events:
            times = (f"{event.start:.3f}", f"{event.end:.3f}", f"{event.score:.4f}")
            rows.writerow((entry.video, event.label, *times))
    return text.getvalue()
