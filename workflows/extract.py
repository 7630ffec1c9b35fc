"""Extract features of many videos into a store: plan, run, report.

The plan compares what the user names with the store and its ledger. Each video that is left is one
task; a task writes its own ledger rows, so that the ledger tells the truth even when the process
that schedules the tasks is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from extractors.media.probe import probe
from extractors.network import is_offline
from extractors.registry import BackboneRow, backbone_spec, refuse_without_encoder
from extractors.shapes import row_bytes
from extractors.spec import BackboneSpec
from extractors.store import FeatureStore
from pipeline.core.errors import (
    EnvironmentFault,
    MediaError,
    PipelineError,
    StoreError,
    UsageError,
)
from pipeline.core.ledger import LedgerRow
from workflows.attempts import CRASHES, Attempts, read_attempts
from workflows.extract_report import BUSY, ExtractReport, ExtractRow, Plan
from workflows.extract_task import ExtractJob, extract_one
from workflows.inputs import MediaItem, find_media
from workflows.progress import Progress
from workflows.schedule import TaskResult, run_tasks
from workflows.store_faults import disk_fault, is_disk_fault, told
from workflows.watchdog import PATIENCE_S

SETTLE_S = 2.0  # for workers that were given up to end
PACK_VIDEOS = 64  # small files from which on it is worth joining them into shards

Results = Generator[TaskResult[ExtractJob, ExtractRow], None, None]

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
        overwrite: Redo videos that are in the store.
        retry_failed: Try failed and quarantined videos again.
        dry_run: Only say what would be done.
        weights_dir: Folder in which the backbone's weights are looked for first.
        offline: Whether the network is forbidden, on every worker; None leaves it to
            ``PIPELINE_OFFLINE``, here or there.
        patience: Seconds without a new step of a video after which its process is taken for hung
            and ends; a rerun tries the video again, and sets it aside after the second time.
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
        spec = backbone_spec(backbone, weights_dir=weights_dir, offline=offline)
        backbone = spec.name  # as workers in other folders understand it
    with told(Path(out)):
        store = _open_store(Path(out), spec, dry_run=dry_run)
        todo, rows = _make_plan(
            items, store, overwrite=overwrite, retry_failed=retry_failed, limit=limit
        )
    if dry_run:
        plan, failing = _estimate(todo, spec)
        return ExtractReport([*rows, *failing], time.perf_counter() - started, plan=plan)
    assert store is not None
    jobs = [
        ExtractJob(
            id=item.id,
            path=str(item.path),
            store=str(store.path),
            backbone=backbone,
            device=device,
            reader=reader,
            overwrite=overwrite,
            # Workers may run in other folders.
            weights_dir=None if weights_dir is None else str(Path(weights_dir).absolute()),
            offline=(is_offline() or None) if offline is None else offline,
            patience=patience,
        )
        for item in todo
    ]
    run = partial(
        run_tasks,
        extract_one,
        scheduler=scheduler or "serial",
        workers=workers,
        use_gpus=device != "cpu",
        announce=announce,
    )
    with told(store.path):
        rows += _run_all(jobs, run, store)
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


def _make_plan(
    items: Sequence[MediaItem],
    store: FeatureStore | None,
    *,
    overwrite: bool,
    retry_failed: bool,
    limit: int | None,
) -> tuple[list[MediaItem], list[ExtractRow]]:
    """What is to be done, and rows for what is not."""
    attempts = {} if store is None else read_attempts(store.ledger)
    todo: list[MediaItem] = []
    rows = []
    for item in items:
        row = None
        if store is not None:
            row = _settled(item, store, attempts.get(item.id, Attempts()), overwrite, retry_failed)
        if row is None and limit is not None and len(todo) >= limit:
            row = ExtractRow(item.id, str(item.path), "skipped", reason="over the limit")
        if row is None:
            todo.append(item)
        else:
            rows.append(row)
    return todo, rows


def _settled(
    item: MediaItem, store: FeatureStore, past: Attempts, overwrite: bool, retry_failed: bool
) -> ExtractRow | None:
    """The row of a video that is not to be tried, None for one that is."""
    path = str(item.path)
    try:
        known = store.get(item.id)
        if known is not None and not overwrite:
            if known.source is None or known.source.matches(item.path):
                return ExtractRow(
                    item.id,
                    path,
                    "skipped",
                    reason="in the store already",
                    steps=known.summary.steps,
                    media_seconds=known.summary.duration,
                )
            return None  # the file changed
        if retry_failed:
            return None
        if past.crashes >= CRASHES:
            return _quarantine(item, store, past)
        if past.failed and past.source is not None and past.source.matches(item.path):
            reason = f"failed before: {past.reason} (--retry-failed tries again)"
            return ExtractRow(item.id, path, "failed", reason=reason)
    except MediaError:
        return None  # unreadable: the attempt says so
    return None


def _quarantine(item: MediaItem, store: FeatureStore, past: Attempts) -> ExtractRow | None:
    """Set aside a video that took its process with it, unless another process is at it."""
    with store.claim(item.id) as free:
        if not free:
            return None
    reason = f"the process died {past.crashes} times while extracting it"
    if not past.quarantined:
        store.ledger.append(LedgerRow(item.id, "quarantined", reason=reason))
    reason += " (--retry-failed tries again)"
    return ExtractRow(item.id, str(item.path), "quarantined", reason=reason)


def _estimate(todo: Sequence[MediaItem], spec: BackboneSpec) -> tuple[Plan, list[ExtractRow]]:
    """What a run would do, from the headers of the files, and the files that cannot be read."""
    plan = Plan(videos=0, seconds=0.0, steps=0, bytes=0, unknown=0)
    failing = []
    with Progress(len(todo), what="looking") as bar:
        for item in todo:
            try:
                duration = probe(item.path).duration
            except MediaError as error:
                failing.append(ExtractRow(item.id, str(item.path), "failed", reason=_words(error)))
            else:
                steps = 0 if duration is None else spec.grid.steps(duration)
                plan = replace(
                    plan,
                    videos=plan.videos + 1,
                    seconds=plan.seconds + (duration or 0.0),
                    steps=plan.steps + steps,
                    bytes=plan.bytes + steps * row_bytes(spec),
                    unknown=plan.unknown + (duration is None),
                )
            bar.advance()
    return plan, failing


def _run_all(
    jobs: Sequence[ExtractJob],
    run: Callable[[Sequence[ExtractJob]], Results],
    store: FeatureStore,
) -> list[ExtractRow]:
    """Rows of all jobs; what a process held that has gone since is tried once more."""
    results = run(jobs)  # refuses an unknown scheduler though there may be nothing to do
    rows = _run(jobs, results, store) if jobs else []
    orphans = _orphans(jobs, rows, store)
    if not orphans:
        return rows
    again = {job.id for job in orphans}
    return [row for row in rows if row.id not in again] + _run(orphans, run(orphans), store)


def _orphans(
    jobs: Sequence[ExtractJob], rows: Sequence[ExtractRow], store: FeatureStore
) -> list[ExtractJob]:
    """Videos that were left to another process which holds them no more.

    Dask gives a task of a worker that it believes dead to the next one, while the first may still
    be at it: it ends within moments, and nobody else would do its video.
    """
    busy = {row.id for row in rows if row.reason == BUSY}
    waiting, free = [job for job in jobs if job.id in busy], []
    end = time.monotonic() + SETTLE_S
    while waiting:
        for job in list(waiting):
            with store.claim(job.id) as mine:
                if mine:
                    waiting.remove(job)
                    free.append(job)
        if not waiting or time.monotonic() > end:
            break
        time.sleep(SETTLE_S / 10)
    return free


def _run(
    jobs: Sequence[ExtractJob],
    results: Results,
    store: FeatureStore,
) -> list[ExtractRow]:
    """Rows of all jobs as their tasks end; an interrupt ends them in good order."""
    rows: list[ExtractRow] = []
    with (
        _interruptible() as asked,
        Progress(len(jobs), what="extracting") as bar,
        contextlib.closing(results),
    ):
        try:
            for result in results:
                rows.append(_row(result, store))
                bad = sum(row.outcome in ("failed", "quarantined") for row in rows)
                bar.advance(f"{bad} failed" if bad else "")
                if asked.is_set():
                    raise KeyboardInterrupt
        finally:
            if len(rows) < len(jobs):
                _note_interrupted(jobs, store)
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
        reason = f"its worker process died {CRASHES} times"
        store.ledger.append(LedgerRow(job.id, "quarantined", reason=reason))
        return ExtractRow(job.id, job.path, "quarantined", reason=reason)
    if isinstance(error, UsageError | EnvironmentFault | StoreError):
        store.ledger.append(LedgerRow(job.id, "skipped", reason=_words(error)))
        raise error
    if isinstance(error, OSError) and is_disk_fault(error):
        store.ledger.append(LedgerRow(job.id, "skipped", reason=str(error)))
        raise disk_fault(error, store.path) or error
    reason = f"{type(error).__name__}: {error}"
    store.ledger.append(LedgerRow(job.id, "failed", reason=reason, seconds=result.seconds))
    return ExtractRow(job.id, job.path, "failed", reason=reason, seconds=result.seconds)


def _words(error: PipelineError) -> str:
    return error.reason if isinstance(error, MediaError) else error.message


def _note_interrupted(jobs: Sequence[ExtractJob], store: FeatureStore) -> None:
    """End the attempts of workers that end with this run: they are no crashes."""
    latest = store.ledger.latest()
    for job in jobs:
        row = latest.get(job.id)
        if row is not None and row.outcome == "started":
            store.ledger.append(LedgerRow(job.id, "skipped", reason="interrupted"))


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Treat a polite kill (a cluster's scheduler, a shutdown) like Ctrl-C: end in good order.

    Yields:
        Set once either came. An exception raised by a signal can get lost where it lands in a
        library's callback; whoever looks at the event ends all the same.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def interrupt(number: int, frame: Any) -> None:
        asked.set()
        raise KeyboardInterrupt

    defaults = (signal.default_int_handler, signal.SIG_DFL)  # others have plans of their own
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(number)) in defaults
    }
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_order(rows: Sequence[ExtractRow], items: Sequence[MediaItem]) -> list[ExtractRow]:
    place = {item.id: number for number, item in enumerate(items)}
    return sorted(rows, key=lambda row: place[row.id])
