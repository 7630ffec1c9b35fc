"""An append-only record of attempts: JSON lines, one file per writer, so writers never share one.

The ledger on disk is the truth about a long job: the process that schedules it may die.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["started", "done", "partial", "skipped", "failed", "quarantined"]


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


class Ledger:
    """Rows below one directory; this writer appends to a file of its own.

    Args:
        directory: Holds one ``*.jsonl`` file per writer; made on the first append.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._own = self.directory / f"{writer}.jsonl"

    def append(self, row: LedgerRow) -> None:
        """Add a row and flush it to disk."""
        self.directory.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(row), allow_nan=False) + "\n"
        with self._own.open("a", encoding="utf-8") as handle:
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())

    def rows(self) -> Iterator[LedgerRow]:
        """All rows of all writers, oldest first; a torn last line of a killed writer is skipped."""
        found = []
        for path in self.directory.glob("*.jsonl"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    found.append(LedgerRow(**json.loads(line)))
                except (json.JSONDecodeError, TypeError):
                    continue
        yield from sorted(found, key=lambda row: row.time)

    def latest(self) -> dict[str, LedgerRow]:
        """The newest row of each item."""
        return {row.id: row for row in self.rows()}
