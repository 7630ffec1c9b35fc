"""What an extraction has to do, by what the store and its ledger say of each video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from extractors.media.probe_apart import probe_apart
from extractors.shapes import row_bytes
from extractors.spec import BackboneSpec
from extractors.storage.store import FeatureStore
from pipeline.core.errors import MediaError, PipelineError
from pipeline.core.ledger import LedgerRow
from workflows.extraction.attempts import CRASHES, Attempts, read_attempts
from workflows.extraction.report import ExtractRow, Plan
from workflows.inputs import MediaItem
from workflows.progress import Progress


def make_plan(
    items: Sequence[MediaItem],
    store: FeatureStore | None,
    *,
    overwrite: bool,
    retry_failed: bool,
    limit: int | None,
) -> tuple[list[MediaItem], list[ExtractRow], set[str]]:
    """What is to be done.

    Args:
        items: What the user named.
        store: The store; None where there is none yet.
        overwrite: See `workflows.extraction.run.extract`, as for the others.
        retry_failed: As above.
        limit: As above.

    Returns:
        What is to be done, rows for what is not, and the ids of those to be done that a process
        died of, or beside: each must have a process for itself, so that the next crash is its own.
    """
    attempts = {} if store is None else read_attempts(store.ledger)
    todo: list[MediaItem] = []
    rows = []
    for item in items:
        row = None
        if store is not None:
            row = _settled(item, store, attempts.get(item.id, Attempts()), overwrite, retry_failed)
        if row is None and limit is not None and len(todo) >= limit:
            row = ExtractRow(item.id, item.name, "skipped", reason="over the limit")
        if row is None:
            todo.append(item)
        else:
            rows.append(row)
    return todo, rows, {item.id for item in todo if attempts.get(item.id, Attempts()).crashes}


def _settled(
    item: MediaItem, store: FeatureStore, past: Attempts, overwrite: bool, retry_failed: bool
) -> ExtractRow | None:
    """The row of a video that is not to be tried, None for one that is."""
    path = item.name
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
    return ExtractRow(item.id, item.name, "quarantined", reason=reason)


def estimate(
    todo: Sequence[MediaItem], spec: BackboneSpec, out: str | os.PathLike[str]
) -> tuple[Plan, list[ExtractRow]]:
    """What a run would do, from the headers of the files, and the files that cannot be read.

    Args:
        todo: What is to be done.
        spec: The backbone.
        out: Folder of the store; it need not be there.
    """
    plan = Plan(videos=0, seconds=0.0, steps=0, bytes=0, unknown=0, free=_free_bytes(Path(out)))
    failing = []
    with Progress(len(todo), what="looking") as bar:
        for item in todo:
            try:
                duration = probe_apart(item.path).duration
            except MediaError as error:
                failing.append(ExtractRow(item.id, item.name, "failed", reason=reason_of(error)))
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


def _free_bytes(path: Path) -> int | None:
    """Bytes that are free on the disk on which a folder is, or would be made."""
    for place in (path.absolute(), *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:  # the run itself will say what is wrong
            return None
    return None


def reason_of(error: PipelineError) -> str:
    """An error's words for a row that names the file already."""
    return error.reason if isinstance(error, MediaError) else error.message
