"""One row of the ledger, and how it is read from a line."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Outcome = Literal["started", "done", "partial", "skipped", "failed", "quarantined"]
OUTCOMES = frozenset(get_args(Outcome))
FARTHEST_S = 1e15  # no clock shows that
_TIME = b'"time": '  # quotes inside a text are escaped: found first, this is the row's own time


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One attempt at one item.

    Attributes:
        id: The item.
        outcome: How the attempt ended; ``started`` is written before a dangerous step, so that a
            crash leaves a trace.
        reason: Why it was not simply done; empty for ``done``.
        reader: Reader that was used, with the reason for a fallback.
        seconds: How long the attempt took.
        time: Unix time of the row.
        details: Whatever else belongs to the attempt, as plain JSON values.
    """

    id: str
    outcome: Outcome
    reason: str = ""
    reader: str = ""
    seconds: float = 0.0
    time: float = field(default_factory=time.time)
    details: dict[str, Any] = field(default_factory=dict)


def format_row(row: LedgerRow) -> bytes:
    """The row as a line, its end included.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    return json.dumps(asdict(row), allow_nan=False).encode() + b"\n"


def mention(id: str) -> bytes:
    """What stands in each line of `format_row` that is a row of an item, and in few others."""
    return json.dumps(id).encode()


def time_in(line: bytes) -> float:
    """The time of a row, without reading the rest of its line; minus infinity where there is none.

    Much faster than `parse_row`.
    """
    begin = line.find(_TIME) + len(_TIME)
    try:
        value = float(line[begin : line.find(b",", begin)]) if begin >= len(_TIME) else -math.inf
    except ValueError:
        return -math.inf
    return value if -FARTHEST_S < value < FARTHEST_S else -math.inf


def parse_row(line: bytes) -> LedgerRow | None:
    """The row in a line; None where the line is torn or damaged."""
    try:
        row = LedgerRow(**json.loads(line))
        sound = -FARTHEST_S < row.time < FARTHEST_S and row.outcome in OUTCOMES
    except (ValueError, TypeError, RecursionError):  # ValueError: no JSON, or no UTF-8
        return None
    texts = isinstance(row.id, str) and isinstance(row.reason, str) and isinstance(row.reader, str)
    return row if sound and texts and isinstance(row.details, dict) else None
