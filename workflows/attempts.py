"""What the ledger of a store says of earlier attempts at each video."""

from __future__ import annotations

from dataclasses import dataclass, replace

from extractors.records import Source
from pipeline.core.ledger import Ledger, LedgerRow

CRASHES = 2  # processes that a video may take with it before it is set aside


@dataclass(frozen=True, slots=True)
class Attempts:
    """Earlier attempts at one video.

    Attributes:
        crashes: Attempts since the last success that were begun and never ended: the process that
            made them died.
        failed: Whether the newest attempt that ended failed.
        quarantined: Whether it has been set aside since its last attempt.
        reason: Why it failed.
        source: Fingerprint of the file that failed.
    """

    crashes: int = 0
    failed: bool = False
    quarantined: bool = False
    reason: str = ""
    source: Source | None = None
    running: bool = False


def read_attempts(ledger: Ledger) -> dict[str, Attempts]:
    """Attempts at each video, from all rows of all writers in the order of time."""
    attempts: dict[str, Attempts] = {}
    for row in ledger.rows():
        attempts[row.id] = _after(attempts.get(row.id, Attempts()), row)
    # What was begun and has not ended counts: its process is gone, or holds the claim.
    return {id: replace(past, crashes=past.crashes + past.running) for id, past in attempts.items()}


def _after(past: Attempts, row: LedgerRow) -> Attempts:
    if row.outcome == "started":
        return replace(past, crashes=past.crashes + past.running, running=True, quarantined=False)
    if row.outcome in ("done", "partial"):
        return Attempts()
    if row.outcome == "failed":
        source = row.details.get("source")
        return Attempts(
            failed=True,
            reason=row.reason,
            source=None if source is None else Source.from_json(source),
        )
    if row.outcome == "quarantined":
        return replace(
            past, crashes=max(CRASHES, past.crashes + past.running), running=False, quarantined=True
        )
    return replace(past, running=False)  # skipped: ended in good order, without a result
