"""How many videos a process has in flight, and which ones travel to a worker together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path

from extractors.storage.store import FeatureStore
from pipeline.core.cores import core_count
from workflows.extraction.attempts import CRASHES, attempts_at
from workflows.extraction.report import BUSY, ExtractRow
from workflows.extraction.task import ExtractGroup, ExtractJob
from workflows.machine import local_gpus
from workflows.tasks import TaskResult

GPU_AT_ONCE = 4  # one decodes as fast as one core can, which a GPU waits for
MOST_ON_GPU = 12  # beside many cores: each has decoders, and with I3D some 200 MB, of its own
CPU_AT_ONCE = 2  # one waits for its decoder or its disk while the other has the cores
MOST_ROUNDS = 8  # videos of a group for each that is in flight: its end leaves places empty
MOST_BYTES = 4 << 30  # files of a group together: long videos go one round at a time
TRIALS = (
    6  # of a video whose workers died without the ledger blaming it: while they loaded the nets
)
SHARE = 16  # of what is left a group takes at most so manyth: the workers end at about one time

Results = Generator[TaskResult[ExtractJob, ExtractRow], None, None]


def choose_at_once(
    at_once: int | None, *, device: str, on_gpu: bool, here: bool, cores: int | None = None
) -> int:
    """Number of videos that a process has in flight.

    Args:
        at_once: What was asked for; None leaves the choice to this.
        device: Where the nets were asked to run.
        on_gpu: Whether ``auto`` finds a GPU.
        here: Whether this process does all; else there are several, which keep the cores of a
            machine busy together.
        cores: That a process has for itself; None where that is not known.

    Returns:
        What was asked for; else 4 where the nets run on a GPU, or as many as there are cores, if
        these are more, up to 12; 2 on the CPU of this process, 1 on those of several.
    """
    if at_once is not None:
        return at_once
    if device != "cpu" and (device != "auto" or on_gpu):
        return max(GPU_AT_ONCE, min(MOST_ON_GPU, cores or 0))
    return CPU_AT_ONCE if here else 1


def cores_of_each(scheduler: str, workers: int | None) -> int | None:
    """Cores for each process that has a GPU; None where they are on other machines.

    Args:
        scheduler: As for `workflows.schedule.run_tasks`.
        workers: Number of processes that was asked for.
    """
    if scheduler == "serial":
        return core_count()
    if scheduler == "dask":
        return core_count() // max(1, workers or len(local_gpus()))
    return None


def group_jobs(
    jobs: Sequence[ExtractJob], *, at_once: Callable[[], int], alone: Set[str] = frozenset()
) -> Iterator[ExtractGroup]:
    """What each task of a cluster is given, made when a worker is free.

    Groups are small enough that the last ones end at about one time, whatever the workers' number
    and the videos' length.

    Args:
        jobs: All jobs.
        at_once: How many of a group are in flight; asked for each, as GPUs may come later.
        alone: Ids of those that must have their process for themselves.
    """
    left = len(jobs)
    group: list[ExtractJob] = []
    size = 0
    for job in jobs:
        bytes_of_job, flying = _size(job), at_once()
        most = max(flying, min(MOST_ROUNDS * flying, left // SHARE)) if flying > 1 else 1
        full = len(group) >= most or (len(group) >= flying and size + bytes_of_job > MOST_BYTES)
        if group and (full or job.id in alone or group[0].id in alone):
            yield _group(group, flying, alone=group[0].id in alone)
            left -= len(group)
            group, size = [], 0
        group.append(job)
        size += bytes_of_job
    if group:
        yield _group(group, at_once(), alone=group[0].id in alone)


def _group(jobs: Sequence[ExtractJob], at_once: int, *, alone: bool) -> ExtractGroup:
    """One that is not alone shares its process even as a single job: workers may have threads."""
    return ExtractGroup(tuple(replace(job, shared=not alone) for job in jobs), at_once)


class Trials:
    """What is tried in place of a group whose worker died; see `workflows.schedule.run_tasks`.

    Each video of a group is tried alone, so that the next worker that dies has died of one video.
    A video that was alone is given up when the store's ledger says that its own attempts ended so:
    a task that only waited at the worker is innocent, and is handed out again, if not for ever.

    Args:
        store: The store, whose ledger tells which attempts were begun and never ended.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._again: Counter[str] = Counter()
        self._met: set[str] = set()

    def __call__(self, group: ExtractGroup) -> list[ExtractGroup]:
        """Its videos, each alone in its process; none for a video that is to blame."""
        self._met.update(job.id for job in group.jobs)
        if len(group.jobs) > 1:
            return [_group([job], 1, alone=True) for job in group.jobs]
        (job,) = group.jobs
        self._again[job.id] += 1
        crashes = attempts_at(self._store.ledger, job.id).crashes
        if crashes >= CRASHES or self._again[job.id] > TRIALS:
            return []
        return [_group([job], 1, alone=True)]

    def credited(
        self, result: TaskResult[ExtractJob, ExtractRow]
    ) -> TaskResult[ExtractJob, ExtractRow]:
        """The result of a job; as done what a worker of this run had done before it died."""
        row = result.value
        if row is None or row.id not in self._met or row.outcome != "skipped" or row.reason == BUSY:
            return result
        done = row_of_stored(row, self._store)
        return result if done is None else replace(result, value=done)


def results_of_jobs(
    results: Generator[
        TaskResult[ExtractGroup, list[TaskResult[ExtractJob, ExtractRow]]], None, None
    ],
    trials: Trials,
) -> Results:
    """The results of groups as results of their jobs."""
    try:
        for result in results:
            if result.value is not None:
                yield from map(trials.credited, result.value)
                continue
            for job in result.item.jobs:
                yield TaskResult(
                    job, error=result.error, deaths=result.deaths, seconds=result.seconds
                )
    finally:
        results.close()


def row_of_stored(row: ExtractRow, store: FeatureStore) -> ExtractRow | None:
    """The row of a video that a process of this run stored without telling it; None without it."""
    known = store.get(row.id)
    if known is None:
        return None
    summary = known.summary
    return replace(
        row,
        outcome=summary.status,
        reason="; ".join(summary.notes),
        steps=summary.steps,
        media_seconds=summary.duration,
    )


def _size(job: ExtractJob) -> int:
    try:
        return Path(job.path).stat().st_size
    except OSError:  # the job will say so
        return 0
