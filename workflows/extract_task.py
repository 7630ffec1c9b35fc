"""The task of extraction: one video, from its file into the store.

It runs in whatever process the scheduler gives it. The nets are loaded once per process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from extractors.features import Summary
from extractors.media.probe import probe
from extractors.network import network
from extractors.records import Source, fingerprint
from extractors.registry import BackboneRow, load_backbone
from extractors.spec import Backbone
from extractors.store import FeatureStore
from extractors.stream import FeatureStream
from pipeline.core.errors import MediaError
from pipeline.core.ledger import LedgerRow
from workflows.extract_report import BUSY, ExtractRow
from workflows.watchdog import PATIENCE_S, Watchdog


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


def extract_one(job: ExtractJob) -> ExtractRow:
    """Extract one video and write down how it went.

    Returns:
        Its row of the report. A file that cannot be read is a row, not an error.

    Raises:
        PipelineError: Something is wrong that other videos would meet too.
    """
    store = _store(job.store)
    with store.claim(job.id) as mine:
        if not mine:
            return ExtractRow(job.id, job.path, "skipped", reason=BUSY)
        return _extract_claimed(job, store)


def _extract_claimed(job: ExtractJob, store: FeatureStore) -> ExtractRow:
    started = time.perf_counter()
    source = None
    try:
        source = fingerprint(job.path)
        if not job.overwrite and _is_stored(job, store):
            return ExtractRow(
                job.id, job.path, "skipped", reason="another process has extracted it"
            )
        # Before the start: it says nothing of the file.
        backbone = _backbone(job.backbone, job.device, job.weights_dir, job.offline)
        store.ledger.append(LedgerRow(job.id, "started"))
        summary = _write(job, store, backbone, source)
    except MediaError as error:
        seconds = time.perf_counter() - started
        details = {} if source is None else {"source": source.to_json()}
        store.ledger.append(
            LedgerRow(job.id, "failed", reason=error.reason, seconds=seconds, details=details)
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
    stream = FeatureStream(probe(job.path), backbone, reader=job.reader)
    with (
        Watchdog(job.path, patience=job.patience) as watchdog,
        store.writer(job.id, source=source) as writer,
    ):
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
        )
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


@lru_cache(maxsize=1)
def _backbone(
    backbone: str | BackboneRow, device: str, weights_dir: str | None, offline: bool | None
) -> Backbone:
    """The nets of this process."""
    if isinstance(backbone, BackboneRow):
        with network(offline=offline):
            return backbone.load(device=device, threads=None)
    return load_backbone(backbone, device=device, weights_dir=weights_dir, offline=offline)


@lru_cache(maxsize=1)
def _store(path: str) -> FeatureStore:
    """The store, opened once per process."""
    return FeatureStore.open(Path(path))
