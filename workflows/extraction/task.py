"""The task of extraction: one video, from its file into the store, or several at once.

It runs in whatever process the scheduler gives it. The nets are loaded once per process. Each video
that is in flight has a thread, decoders and buffers of its own; they share the nets. So while one
waits for a decoder that starts, or for a disk that writes, the nets work for another.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from extractors.features import Summary
from extractors.media.probe_apart import probe_apart
from extractors.registry import BackboneRow, load_backbone
from extractors.spec import Backbone
from extractors.storage.records import Source, fingerprint
from extractors.storage.store import FeatureStore
from extractors.stream import FeatureStream
from extractors.weights.network import network
from pipeline.core.errors import EnvironmentFault, MediaError, StoreError, UsageError
from pipeline.core.ledger import LedgerRow
from workflows.extraction.company import company
from workflows.extraction.report import BUSY, EXTRACTED, ExtractRow
from workflows.extraction.side_by_side import run_side_by_side
from workflows.extraction.store_faults import is_disk_fault
from workflows.extraction.watchdog import PATIENCE_S, Watchdog
from workflows.tasks import TaskResult, guarded, wanted

_loading = threading.Lock()  # of what a process has once, for whichever thread comes first


@dataclass(frozen=True, slots=True)
class ExtractJob:
    """What a task is told: plain values that travel to other machines.

    Attributes:
        id: Name of the video in the store.
        path: The file.
        store: Folder of the store.
        backbone: Name of the nets, or a row for the table of backbones.
        device: Where the nets run.
        reader: Video reader.
        overwrite: Redo it though it is in the store.
        weights_dir: Folder in which weights are looked for first.
        offline: Whether the network is forbidden; None leaves it to the worker's environment.
        patience: Seconds without a new step after which the process is taken for hung.
        shared: Whether other videos may be in flight in its process; else it waits until it is
            alone there.
    """

    id: str
    path: str
    store: str
    backbone: str | BackboneRow
    device: str
    reader: str
    overwrite: bool
    weights_dir: str | None = None
    offline: bool | None = None
    patience: float = PATIENCE_S
    shared: bool = False


class UnseenError(MediaError):
    """A file that a process cannot open, as another one may.

    Attributes:
        host: On which machine.
    """

    def __init__(
        self, path: str, reason: str, *, hint: str | None = None, host: str | None = None
    ) -> None:
        self.host = socket.gethostname() if host is None else host
        super().__init__(path, reason, hint=hint)

    def __reduce__(self) -> tuple[object, ...]:
        make = partial(UnseenError, self.path, self.reason, hint=self.hint, host=self.host)
        return make, ()


@dataclass(frozen=True, slots=True)
class ExtractGroup:
    """Several jobs for one process.

    Attributes:
        jobs: In the order in which they are begun.
        at_once: How many may be in flight.
    """

    jobs: tuple[ExtractJob, ...]
    at_once: int


def extract_group(group: ExtractGroup) -> list[TaskResult[ExtractJob, ExtractRow]]:
    """Extract several videos, some at once, and write down how each went.

    Returns:
        How the job of each video ended, as `extract_one` says; after an error that all others would
        meet too, those that had not ended are not among them. Where the run is gone that asked, no
        further video is begun.
    """
    if len(group.jobs) == 1:
        return [_placed(guarded(extract_one, group.jobs[0]))]
    ask = wanted()
    jobs = itertools.takewhile(lambda job: ask(), group.jobs)
    results = run_side_by_side(extract_one, jobs, at_once=group.at_once, ends_all=meets_every_video)
    return [_placed(result) for result in results]


def _placed(result: TaskResult[ExtractJob, ExtractRow]) -> TaskResult[ExtractJob, ExtractRow]:
    """The same, where an error that is its machine's says which machine that is."""
    error = result.error
    if not isinstance(error, EnvironmentFault | StoreError):
        return result
    words = f"on {socket.gethostname()}: {error.message}"
    return replace(result, error=type(error)(words, hint=error.hint))


def meets_every_video(error: BaseException | None) -> bool:
    """Whether an error says nothing of the video at hand: the next one would meet it, too."""
    everywhere = (UsageError, EnvironmentFault, StoreError)
    return isinstance(error, everywhere) or is_disk_fault(error)


def extract_one(job: ExtractJob) -> ExtractRow:
    """Extract one video and write down how it went.

    Returns:
        Its row of the report. A file that cannot be decoded is a row, not an error.

    Raises:
        UnseenError: It cannot be opened here.
        PipelineError: Something is wrong that other videos would meet too.
    """
    with _loading:
        store = _store(job.store, _made(job.store))
    with company(alone=not job.shared), store.claim(job.id) as mine:
        if not mine:
            return ExtractRow(job.id, job.path, "skipped", reason=BUSY)
        return _extract_claimed(job, store)


def _extract_claimed(job: ExtractJob, store: FeatureStore) -> ExtractRow:
    started = time.perf_counter()
    source = None
    try:
        source = fingerprint(job.path)
        if not job.overwrite and _is_stored(job, store):
            return ExtractRow(job.id, job.path, "skipped", reason=EXTRACTED)
        # Before the start: it says nothing of the file.
        with _loading:
            backbone = _backbone_of(store, job)
        company = {"shared": True} if job.shared else {}
        store.ledger.append(LedgerRow(job.id, "started", details=company))
        summary = _write(job, store, backbone, source)
    except MediaError as error:
        if source is None and isinstance(error.__cause__, FileNotFoundError | PermissionError):
            raise UnseenError(error.path, error.reason, hint=error.hint) from error
        seconds = time.perf_counter() - started
        details = {} if source is None else {"source": source.to_json()}
        store.ledger.append(
            LedgerRow(job.id, "failed", reason=error.reason, seconds=seconds, details=details),
        )
        return ExtractRow(job.id, job.path, "failed", reason=error.reason, seconds=seconds)
    except KeyboardInterrupt:
        store.ledger.append(LedgerRow(job.id, "skipped", reason="interrupted"))
        raise
    return _finished(job, store, summary, seconds=time.perf_counter() - started)


def _is_stored(job: ExtractJob, store: FeatureStore) -> bool:
    """Whether another process has finished the video since the plan was made."""
    known = store.get(job.id)
    return known is not None and known.source is not None and known.source.matches(job.path)


def _write(job: ExtractJob, store: FeatureStore, backbone: Backbone, source: Source) -> Summary:
    with (
        Watchdog(job.path, patience=job.patience) as watchdog,
        store.writer(job.id, source=source) as writer,
    ):
        stream = FeatureStream(probe_apart(job.path), backbone, reader=job.reader)
        watchdog.pat()
        for rows in stream:
            watchdog.pat()
            writer.append(rows)
        watchdog.pat()
        writer.finish(stream.summary)
    return stream.summary


def _finished(
    job: ExtractJob, store: FeatureStore, summary: Summary, *, seconds: float
) -> ExtractRow:
    reason = "; ".join(summary.notes)
    reader = ", ".join(f"{modality}: {name}" for modality, name in summary.readers.items())
    store.ledger.append(
        LedgerRow(
            job.id,
            summary.status,
            reason=reason,
            reader=reader,
            seconds=seconds,
            details={"steps": summary.steps, "coverage": dict(summary.coverage)},
        ),
    )
    return ExtractRow(
        job.id,
        job.path,
        summary.status,
        reason=reason,
        steps=summary.steps,
        media_seconds=summary.duration,
        seconds=seconds,
    )


def _backbone_of(store: FeatureStore, job: ExtractJob) -> Backbone:
    """The nets of this process, if their features are those of the store.

    Raises:
        StoreError: They are others: another version of the program, or other weights.
    """
    found = _backbone(job.backbone, job.device, job.weights_dir, job.offline, store.digest)
    if found.spec.digest != store.digest:
        raise StoreError(
            f"the store {store.path} is for features with digest {store.digest}, the backbone "
            f"{found.spec.name!r} of this process makes some with digest {found.spec.digest}",
            hint="give every machine the same version of the program and the same weights",
        )
    return found


@lru_cache(maxsize=1)
def _backbone(
    backbone: str | BackboneRow,
    device: str,
    weights_dir: str | None,
    offline: bool | None,
    digest: str,
) -> Backbone:
    """The nets of this process; read again for a store of another digest, as weights may change."""
    if isinstance(backbone, BackboneRow):
        with network(offline=offline):
            return backbone.load(device=device, threads=None)
    return load_backbone(backbone, device=device, weights_dir=weights_dir, offline=offline)


def _made(path: str) -> tuple[int, int] | None:
    """Tells a store from one that was made anew in its place; None where there is none."""
    try:
        status = (Path(path) / "store.json").stat()
    except OSError:  # opening it will say what is wrong
        return None
    return status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=1)
def _store(path: str, made: tuple[int, int] | None) -> FeatureStore:
    """The store, opened once per process; again where ``made`` differs."""
    return FeatureStore.open(Path(path))
