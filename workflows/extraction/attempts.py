"""What the ledger of a store says of earlier attempts at each video."""

from __future__ import annotations

from dataclasses import dataclass, replace

from extractors.storage.records import Source
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
        running: Whether an attempt was begun that has not ended.
        shared: Whether other videos were in flight in that attempt's process.
    """

    crashes: int = 0
    failed: bool = False
    quarantined: bool = False
    reason: str = ""
    source: Source | None = None
    running: bool = False
    shared: bool = False

    @property
    def deaths(self) -> int:
        """Crashes, where the attempt that has not ended counts as one.

        In company any of the videos may be to blame. Such a crash counts as a first one only, and
        makes that the video is tried alone from then on: the crash that sets it aside is its own.
        """
        return self.crashes + (self.running and not (self.shared and self.crashes))


NOTHING = Attempts()


def read_attempts(ledger: Ledger) -> dict[str, Attempts]:
    """Attempts at each video of which there is something to say, from all rows of all writers.

    Videos that were done, or left in good order, are not among them: of a large store that is done,
    nothing stays in memory.
    """
    attempts: dict[str, Attempts] = {}
    for row in ledger.rows():
        past = _after(attempts.get(row.id, NOTHING), row)
        if past == NOTHING:
            attempts.pop(row.id, None)
        else:
            attempts[row.id] = past
    return {id: _counted(past) for id, past in attempts.items()}


def attempts_at(ledger: Ledger, id: str) -> Attempts:
    """Attempts at one video: what `read_attempts` says of it, much faster.

    Asked for each worker that dies, while the others wait for their next videos.
    """
    past = NOTHING
    for row in ledger.rows(only=id):
        past = _after(past, row)
    return _counted(past)


def _counted(past: Attempts) -> Attempts:
    """What was begun and has not ended counts: its process is gone, or holds the claim."""
    return replace(past, crashes=past.deaths)


def _after(past: Attempts, row: LedgerRow) -> Attempts:
    if row.outcome == "started":
        shared = row.details.get("shared") is True
        return replace(past, crashes=past.deaths, running=True, shared=shared, quarantined=False)
    if row.outcome in ("done", "partial"):
        return NOTHING
    if row.outcome == "failed":
        return Attempts(failed=True, reason=row.reason, source=_source(row))
    if row.outcome == "quarantined":
        crashes = max(CRASHES, past.deaths)
        return replace(past, crashes=crashes, running=False, shared=False, quarantined=True)
    # Skipped: it ended in good order, without a result.
    return replace(past, running=False, shared=False)


def _source(row: LedgerRow) -> Source | None:
    """Fingerprint in a row; None where there is none, or what a stranger wrote is none."""
    try:
        return Source.from_json(row.details["source"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
