"""One row of the ledger, and how it is read from a line."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Outcome = Literal["started", "done", "partial", "skipped", "failed", "quarantined"]
OUTCOMES = frozenset(get_args(Outcome))
FARTHEST_S = 1e15  # no clock shows that


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


def parse_row(line: bytes) -> LedgerRow | None:
    """The row in a line; None where the line is torn or damaged."""
    try:
        row = LedgerRow(**json.loads(line))
        sound = -FARTHEST_S < row.time < FARTHEST_S and row.outcome in OUTCOMES
    except (ValueError, TypeError, RecursionError):  # ValueError: no JSON, or no UTF-8
        return None
    texts = isinstance(row.id, str) and isinstance(row.reason, str) and isinstance(row.reader, str)
    return row if sound and texts and isinstance(row.details, dict) else None
