"""CSV: one row an event; seconds with three decimals, always with a point.

No cell is a formula: see `pipeline.formats.cells`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections, Event
from pipeline.formats.cells import guard, unguard
from pipeline.formats.gather import gather, video_of

COLUMNS = ("video", "label", "start", "end", "score")


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """A header and the rows; commas, quotes and newlines in names are quoted (RFC 4180)."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for entry in detections:
        for event in entry.events:
            times = (f"{event.start:.3f}", f"{event.end:.3f}", f"{event.score:.4f}")
            rows.writerow((guard(entry.video), guard(event.label), *times))
    return text.getvalue()


def parse(text: str, source: Path) -> list[Detections]:
    """Rows under a header with ``label``, ``start`` and ``end``, in any order of columns.

    Without ``video`` all rows are of one video with the name of the file, without ``score`` each
    has 1. Videos without events are in no such file.

    Raises:
        ValueError: A column is missing, or a row is no event.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""))
    found = []
    try:
        missing = {"label", "start", "end"} - set(rows.fieldnames or ())
        if not missing:
            found = [_row(row, source) for row in rows]
    except (TypeError, ValueError, AttributeError, csv.Error) as error:
        raise ValueError(f"line {max(1, rows.line_num)}: {error}") from error
    if missing:
        raise ValueError(f"its first line names no column {', '.join(sorted(missing))}")
    return gather(found)


def _row(row: dict[str, str], source: Path) -> tuple[str, Event]:
    score = row.get("score") or "1"
    event = Event(float(row["start"]), float(row["end"]), unguard(row["label"]), float(score))
    return unguard(row.get("video") or video_of(source)), event
