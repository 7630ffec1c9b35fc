"""Videos that were left to another process, when all else is done: whose are they, and what now?

Dask hands the task of a worker that leaves, or that it believes dead, to the next one, while the
first may still be at it and hold its claim: Dask gives a worker half a minute to close, and one
whose host hangs holds it for as long as that lasts. Such a video would be nobody's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from extractors.storage.store import FeatureStore
from pipeline.core.errors import MediaError
from workflows.extraction.groups import row_of_stored
from workflows.extraction.report import BUSY, EXTRACTED, ExtractRow
from workflows.extraction.task import ExtractJob

SETTLE_S = 2.0  # for a process of another run that is just ending
CLOSING_S = 60.0  # for a worker of this run: Dask gives it 30 s to close, then kills it
POLL_S = 0.2
LEFT = "left to a process that no running job answers for; run the same command again"

log = logging.getLogger(__name__)


def await_orphans(
    jobs: Sequence[ExtractJob], rows: Sequence[ExtractRow], store: FeatureStore, *, seconds: float
) -> list[ExtractJob]:
    """Videos that were left to another process, which has let go of them without finishing them.

    Args:
        jobs: All jobs.
        rows: How they ended.
        store: The store.
        seconds: How long to wait for those that are still held.
    """
    busy = {row.id for row in rows if row.reason == BUSY}
    waiting, free = [job for job in jobs if job.id in busy], []
    begun, told = time.monotonic(), False
    while waiting:
        for job in list(waiting):
            with store.claim(job.id) as mine:
                if _is_stored(job, store):
                    waiting.remove(job)
                elif mine:
                    waiting.remove(job)
                    free.append(job)
        waited = time.monotonic() - begun
        if not waiting or waited > seconds:
            break
        if waited > SETTLE_S and not told:
            log.warning(
                "waiting up to %g s for %d videos that another process holds, such as %s",
                seconds, len(waiting), waiting[0].id,
            )  # fmt: skip
            told = True
        time.sleep(POLL_S)
    return free


def judge_orphans(
    rows: Sequence[ExtractRow],
    jobs: Sequence[ExtractJob],
    store: FeatureStore,
    *,
    others: Callable[[], bool],
    ours: bool,
) -> list[ExtractRow]:
    """What the report says of videos that were left to another process, at the end.

    One that is not in the store is the business of another run at work. Without such a run it is
    nobody's, and failed; the ledger does not say so, and the next run tries it.

    Args:
        rows: How the jobs ended.
        jobs: Those jobs.
        store: The store.
        others: Says whether another run is at work on the store.
        ours: Whether what is in the store by now was done by this run: by a worker that it gave up,
            or that died.
    """
    job_of = {job.id: job for job in jobs}
    judged = []
    for row in rows:
        if row.reason == BUSY:
            another = others()  # first: a run that ends stores what it has before
            if _is_stored(job_of[row.id], store):
                done = row_of_stored(row, store) if ours else None
                row = done or replace(row, reason=EXTRACTED)
            elif not another:
                row = replace(row, outcome="failed", reason=LEFT)
        elif row.reason == EXTRACTED and ours:  # its worker died with the row
            row = row_of_stored(row, store) or row
        judged.append(row)
    return judged


def _is_stored(job: ExtractJob, store: FeatureStore) -> bool:
    """Whether the features of the file as it is now are there; not known where they were before."""
    known = None if job.overwrite else store.get(job.id)
    if known is None or known.source is None:
        return False
    try:
        return known.source.matches(job.path)
    except MediaError:  # whoever tries it again says so
        return False
