"""Extract features of many videos into a store: plan, run, report.

The plan compares what the user names with the store and its ledger. Each video that is left is one
task; a task writes its own ledger rows, so that the ledger tells the truth even when the process
that schedules the tasks is gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from extractors.preview import preview_spec
from extractors.registry import BackboneRow, backbone_spec, refuse_without_encoder
from extractors.spec import BackboneSpec
from extractors.storage.records import fingerprint
from extractors.storage.store import FeatureStore
from extractors.weights.network import is_offline
from pipeline.core.errors import (
    EnvironmentFault,
    MediaError,
    PipelineError,
    UsageError,
)
from pipeline.core.ledger import LedgerRow
from workflows.extraction.attempts import CRASHES, attempts_at
from workflows.extraction.groups import (
    Results,
    Trials,
    choose_at_once,
    cores_of_each,
    group_jobs,
    results_of_jobs,
)
from workflows.extraction.orphans import CLOSING_S, SETTLE_S, await_orphans, judge_orphans
from workflows.extraction.pack_along import packing_along
from workflows.extraction.plan import estimate, make_plan, reason_of
from workflows.extraction.presence import present
from workflows.extraction.report import ExtractReport, ExtractRow
from workflows.extraction.side_by_side import run_side_by_side
from workflows.extraction.signals import interruptible
from workflows.extraction.store_faults import disk_fault, is_disk_fault, told
from workflows.extraction.task import (
    ExtractGroup,
    ExtractJob,
    UnseenError,
    extract_group,
    extract_one,
    meets_every_video,
)
from workflows.extraction.watchdog import PATIENCE_S
from workflows.inputs import MediaItem, find_media
from workflows.machine import local_gpus
from workflows.progress import Progress
from workflows.schedule import run_tasks
from workflows.tasks import TaskResult

ROUNDS = 3  # in which videos are tried again that another process had and did not finish
PACK_VIDEOS = 64  # small files from which on it is worth joining them into shards

Place = Callable[..., Any]  # run_tasks with all said but what to run

__all__ = ["ExtractReport", "ExtractRow", "extract"]


def extract(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    backbone: str | BackboneRow = "lite",
    device: str = "auto",
    scheduler: str | None = None,
    workers: int | None = None,
    reader: str = "auto",
    limit: int | None = None,
    at_once: int | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    dry_run: bool = False,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    patience: float = PATIENCE_S,
    announce: Callable[[str], None] | None = None,
) -> ExtractReport:
    """Extract the features of media files into a store.

    Called again with the same store it continues: videos that are in it are skipped as long as
    their files have not changed, those that failed are tried again only when asked for.

    Args:
        inputs: Files, folders, globs and lists; see `workflows.inputs.find_media`.
        out: Folder of the store.
        backbone: Name of the nets, or a row of one's own for the table of backbones.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        scheduler: See `workflows.schedule.run_tasks`; None for this process, which keeps all cores
            busy as it is: the nets are threaded and decoding runs beside them.
        workers: Number of processes for the scheduler ``dask``; for the address of a cluster, the
            number of workers that it may grow to.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.
        limit: Stop after so many videos that are not in the store yet.
        at_once: Videos that each process has in flight, on shared nets; None for 4 on a GPU, 2 on
            the CPU of this process, 1 elsewhere. Memory grows with it, features stay the same.
        overwrite: Redo videos that are in the store.
        retry_failed: Try failed and quarantined videos again.
        dry_run: Only say what would be done.
        weights_dir: Folder in which the backbone's weights are looked for first.
        offline: Whether the network is forbidden, on every worker; None leaves it to
            ``PIPELINE_OFFLINE``, here or there.
        patience: Seconds without a new step of a video, of its share of the time where several are
            in flight, after which its process is taken for hung and ends; a rerun tries it again,
            alone, and sets it aside after the second time.
        announce: Called with the address of the cluster's dashboard, where there is one.

    Raises:
        NothingMatchedError: The inputs name no file.
        UsageError: Unknown backbone, device, reader or scheduler; features that no encoder here
            makes; two files of one id.
        StoreError: The folder holds features of another backbone, or something else.
        EnvironmentFault: ffmpeg, weights or the device are missing, or the store's disk is full,
            may not be written or does not answer.
    """
    started = time.perf_counter()
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit} is below 1")
    if at_once is not None and at_once < 1:
        raise UsageError(f"at_once={at_once} is below 1", hint="1 does one video at a time")
    if patience <= 0:
        raise UsageError(f"patience={patience} is not positive", hint="give seconds, such as 3600")
    if reader not in ("auto", "decord", "ffmpeg"):
        raise UsageError(f"unknown video reader {reader!r}", hint="use auto, decord or ffmpeg")
    if isinstance(backbone, str):
        refuse_without_encoder(backbone)  # before a store is made, and in a dry run too
    items = find_media(inputs)
    if isinstance(backbone, BackboneRow):
        spec = backbone.spec
    else:
        describe = preview_spec if dry_run else backbone_spec  # which downloads weights
        spec = describe(backbone, weights_dir=weights_dir, offline=offline)
        backbone = spec.name  # as workers in other folders understand it
    with told(Path(out)):
        store = _open_store(Path(out), spec, dry_run=dry_run)
        todo, rows, suspects = make_plan(
            items, store, overwrite=overwrite, retry_failed=retry_failed, limit=limit
        )
    if dry_run:
        plan, failing = estimate(todo, spec, out)
        return ExtractReport([*rows, *failing], time.perf_counter() - started, plan=plan)
    assert store is not None
    scheduler = scheduler or "serial"
    jobs = [
        ExtractJob(
            id=item.id,
            # Workers may run in other folders.
            path=str(item.path.absolute()),
            store=str(store.path.absolute()),
            backbone=backbone,
            device=device,
            reader=reader,
            overwrite=overwrite,
            weights_dir=None if weights_dir is None else str(Path(weights_dir).absolute()),
            offline=(is_offline() or None) if offline is None else offline,
            patience=patience,
        )
        for item in todo
    ]
    place = partial(
        run_tasks,
        scheduler=scheduler,
        workers=workers,
        use_gpus=device != "cpu",
        announce=announce,
    )
    here = scheduler == "serial"
    run = partial(
        _run_here if here else partial(_run_there, store=store),
        place=place,
        choose=partial(
            choose_at_once,
            at_once,
            device=device,
            here=here,
            cores=cores_of_each(scheduler, workers),
        ),
        alone=suspects,
    )
    with told(store.path):
        with packing_along(store) as along:
            rows += _run_all(jobs, along(run), store, here=here)
        if jobs or os.access(store.path, os.W_OK):  # a finished store may lie on a read-only disk
            store.pack(min_videos=PACK_VIDEOS)
    return ExtractReport(_in_order(rows, items), time.perf_counter() - started)


def _open_store(path: Path, spec: BackboneSpec, *, dry_run: bool) -> FeatureStore | None:
    """The store; None for a dry run before the first real one."""
    if not dry_run:
        return FeatureStore.create(path, spec)
    if not (path / "store.json").exists():
        return None
    return FeatureStore.open(path, digest=spec.digest)


def _run_here(
    jobs: Sequence[ExtractJob],
    *,
    place: Place,
    choose: Callable[..., int],
    alone: Set[str],
) -> Results:
    """Results of jobs in this process: those that share it first, then those that must not."""
    at_once = choose(on_gpu=bool(local_gpus()))
    shared = [replace(job, shared=True) for job in jobs if job.id not in alone]
    if at_once == 1 or len(shared) < 2:
        results: Results = place(extract_one, jobs)
        return results
    return _one_after_the_other(
        run_side_by_side(extract_one, shared, at_once=at_once, ends_all=meets_every_video),
        place(extract_one, [job for job in jobs if job.id in alone]),
    )


def _one_after_the_other(*parts: Results) -> Results:
    for part in parts:
        yield from part


def _run_there(
    jobs: Sequence[ExtractJob],
    *,
    place: Place,
    choose: Callable[..., int],
    alone: Set[str],
    store: FeatureStore,
) -> Results:
    """Results of jobs in the processes of a scheduler, each of which is given some at a time."""

    def groups(on_gpu: Callable[[], bool]) -> Iterator[ExtractGroup]:
        return group_jobs(jobs, at_once=lambda: choose(on_gpu=on_gpu()), alone=alone)

    trials = Trials(store)
    return results_of_jobs(place(extract_group, groups, divide=trials), trials)


def _run_all(
    jobs: Sequence[ExtractJob],
    run: Callable[[Sequence[ExtractJob]], Results],
    store: FeatureStore,
    *,
    here: bool,
) -> list[ExtractRow]:
    """Rows of all jobs; what another process had and did not finish is tried again."""
    since = store.ledger.ends()
    results = run(jobs)  # refuses an unknown scheduler though there may be nothing to do
    if not jobs:
        return []
    with present(store) as others:
        alone = not others()
        rows = _run(jobs, results, store, since)
        for _ in range(ROUNDS):
            with interruptible():
                left = await_orphans(jobs, rows, store, seconds=SETTLE_S if here else CLOSING_S)
            if not left:
                break
            again = {job.id for job in left}
            rows = [row for row in rows if row.id not in again]
            rows += _run(left, run(left), store, since)
        ours = alone and not here and not others()
        return judge_orphans(rows, jobs, store, others=others, ours=ours)


def _run(
    jobs: Sequence[ExtractJob],
    results: Results,
    store: FeatureStore,
    since: Mapping[Path, int],
) -> list[ExtractRow]:
    """Rows of all jobs as their tasks end; an interrupt ends them in good order."""
    rows: list[ExtractRow] = []
    bad = 0
    with (
        interruptible() as asked,
        Progress(len(jobs), what="extracting") as bar,
        contextlib.closing(results),
    ):
        try:
            for result in results:
                rows.append(_row(result, store))
                bad += rows[-1].outcome in ("failed", "quarantined")
                bar.advance(f"{bad} failed" if bad else "")
                if asked.is_set():
                    raise KeyboardInterrupt
        finally:
            if len(rows) < len(jobs):
                try:
                    results.close()  # first: what ends in good order says so itself
                finally:
                    _note_interrupted(jobs, store, since)
    return rows


def _row(result: TaskResult[ExtractJob, ExtractRow], store: FeatureStore) -> ExtractRow:
    """The row of a task that ended, with a ledger row where it could not write its own.

    Raises:
        PipelineError: An error that every other video would meet too.
    """
    if result.value is not None:
        return result.value
    job, error = result.item, result.error
    if result.died:
        return _row_of_dead(result, store)
    if isinstance(error, UnseenError):
        return _row_of_unseen(error, result, store)
    if isinstance(error, PipelineError) and meets_every_video(error):
        store.ledger.append(LedgerRow(job.id, "skipped", reason=reason_of(error)))
        raise error
    if isinstance(error, OSError) and is_disk_fault(error):
        store.ledger.append(LedgerRow(job.id, "skipped", reason=str(error)))
        raise disk_fault(error, store.path) or error
    told = isinstance(error, PipelineError)
    reason = str(error) if told else f"{type(error).__name__}: {error}"
    store.ledger.append(LedgerRow(job.id, "failed", reason=reason, seconds=result.seconds))
    return ExtractRow(job.id, job.path, "failed", reason=reason, seconds=result.seconds)


def _row_of_unseen(
    error: UnseenError, result: TaskResult[ExtractJob, ExtractRow], store: FeatureStore
) -> ExtractRow:
    """The row of a video that its worker could not open.

    Raises:
        EnvironmentFault: This process can: the worker would fail at all others, and fast.
    """
    job = result.item
    try:
        fingerprint(job.path)
    except MediaError:
        seconds = result.seconds
        store.ledger.append(LedgerRow(job.id, "failed", reason=error.reason, seconds=seconds))
        return ExtractRow(job.id, job.path, "failed", reason=error.reason, seconds=seconds)
    raise EnvironmentFault(
        f"{job.path} {error.reason} on the worker {error.host}, but it can be read here",
        hint="give every worker the videos under the same path, and the right to read them; then "
        "run the same command again",
    )


def _row_of_dead(result: TaskResult[ExtractJob, ExtractRow], store: FeatureStore) -> ExtractRow:
    """Set a video aside of which workers died; one that was only beside them is tried again."""
    job = result.item
    crashes = attempts_at(store.ledger, job.id).crashes
    if crashes >= CRASHES:
        reason = f"its worker process died {crashes} times while extracting it"
        store.ledger.append(LedgerRow(job.id, "quarantined", reason=reason))
        return ExtractRow(job.id, job.path, "quarantined", reason=reason)
    reason = f"{result.deaths} workers that had it ended or died before they had done it"
    store.ledger.append(LedgerRow(job.id, "skipped", reason=reason))
    return ExtractRow(job.id, job.path, "failed", reason=reason)


def _note_interrupted(
    jobs: Sequence[ExtractJob], store: FeatureStore, since: Mapping[Path, int]
) -> None:
    """End the attempts of workers that end with this run: they are no crashes.

    What another process holds after a moment is not this run's to end: another job is at it. What
    was begun before this run and never ended is one: its process died.

    Args:
        jobs: Of this run.
        store: The store.
        since: Where its ledger ended when this run began.
    """
    recent = store.ledger.recent(since)
    begun = {id for id, row in recent.items() if row.outcome == "started"}
    left = [job.id for job in jobs if job.id in begun]
    end = time.monotonic() + SETTLE_S
    while left:
        held = [id for id in left if store.is_claimed_elsewhere(id)]
        for id in set(left).difference(held):
            store.ledger.append(LedgerRow(id, "skipped", reason="interrupted"))
        if time.monotonic() > end:
            break
        left = held
        time.sleep(SETTLE_S / 10 if held else 0)


def _in_order(rows: Sequence[ExtractRow], items: Sequence[MediaItem]) -> list[ExtractRow]:
    """In the order of the items, with their paths as the user wrote them."""
    place = {item.id: number for number, item in enumerate(items)}
    ordered = sorted(rows, key=lambda row: place[row.id])
    for number, row in enumerate(ordered):
        name = items[place[row.id]].name
        if row.path != name:
            ordered[number] = replace(row, path=name)
    return ordered
