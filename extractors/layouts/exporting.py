"""From a feature store into feature files of the field.

A modality's file ends where its features end: steps at the end that the mask excludes are left out,
so that what was imported comes out as it went in. Masked steps before that are zeros. Class scores
are not written: the layouts have no place for them.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.features import Features
from extractors.layouts.table import Layout, Part
from extractors.spec import MODALITIES, Modality
from extractors.storage.store import FeatureStore
from pipeline.core.atomic import write_bytes
from pipeline.core.errors import StoreError, UsageError

SHOWN = 20  # failures that the table shows

Outcome = Literal["done", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class ExportRow:
    """How one video fared.

    Attributes:
        id: The video.
        outcome: ``done``; ``skipped`` where the files are there already; ``failed``.
        reason: Why it failed.
        gaps: Steps between features that were written as zeros.
        missing: The modality of which no file was written.
    """

    id: str
    outcome: Outcome
    reason: str = ""
    gaps: int = 0
    missing: Modality | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How an export went.

    Attributes:
        folder: Where the files are.
        rows: One per video, sorted by id.
        notes: What the reader must know.
    """

    folder: Path
    rows: tuple[ExportRow, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[Outcome, int]:
        """Number of videos by outcome."""
        counted = Counter(row.outcome for row in self.rows)
        return {"done": counted["done"], "skipped": counted["skipped"], "failed": counted["failed"]}

    @property
    def exit_code(self) -> int:
        """1 where a video failed, else 0."""
        return int(self.counts["failed"] > 0)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "folder": str(self.folder),
            "counts": self.counts,
            "notes": list(self.notes),
            "videos": [
                {
                    "id": row.id,
                    "outcome": row.outcome,
                    "reason": row.reason,
                    "gaps": row.gaps,
                    "missing": row.missing,
                }
                for row in self.rows
            ],
        }

    def format_table(self) -> str:
        """The report for a terminal."""
        failed = [row for row in self.rows if row.outcome == "failed"]
        lines = [f"failed  {row.id}: {row.reason}" for row in failed[:SHOWN]]
        if len(failed) > SHOWN:
            lines.append(f"failed  ... and {len(failed) - SHOWN} more (--json names all)")
        parts = [f"{count} {name}" for name, count in self.counts.items() if count]
        lines.append(f"{', '.join(parts) or 'nothing to do'}: {self.folder}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def export_features(
    store: FeatureStore,
    layout: Layout,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write all videos of a store in a layout.

    Args:
        store: The store.
        layout: The layout; one for any features takes each modality as one array.
        folder: Where to; files that are there and equal are kept.
        overwrite: Replace files that are there and differ.
        progress: Called after each video.

    Raises:
        UsageError: The layout is for other widths or another grid than the store has.
    """
    widths = _check_fit(store, layout)
    folder = Path(folder)
    rows = []
    for id in store.ids():
        rows.append(_export_one(store, id, layout, widths, folder, overwrite=overwrite))
        progress()
    return ExportReport(folder, tuple(rows), tuple(_notes(store, layout, rows)))


def _check_fit(store: FeatureStore, layout: Layout) -> tuple[int, ...]:
    """Width of each part."""
    dims: dict[Modality, int] = {"vision": store.spec.vision.dim, "audio": store.spec.audio.dim}
    ours, theirs = store.spec.grid, None if layout.spec is None else layout.spec.grid
    if theirs is not None and (ours.fps, ours.window, ours.stride) != (
        theirs.fps,
        theirs.window,
        theirs.stride,
    ):
        raise UsageError(
            f"the layout {layout.name!r} has {theirs.fps} fps, window {theirs.window}, stride "
            f"{theirs.stride}; the store has {ours.fps}, {ours.window}, {ours.stride}",
            hint="export with --layout npy or npz",
        )
    widths: list[int] = []
    for modality in MODALITIES:
        parts = [layout.parts[number].dim for number in layout.of(modality)]
        known = [dims[modality]] if parts == [None] else parts
        if None in known or sum(dim or 0 for dim in known) != dims[modality]:
            said = " + ".join("?" if dim is None else str(dim) for dim in known)
            raise UsageError(
                f"the layout {layout.name!r} has {modality} arrays of width {said}, the features "
                f"of the store have {dims[modality]}",
                hint="export with --layout npy or npz and one place for each modality",
            )
        widths += [dim for dim in known if dim is not None]
    return tuple(widths)


def _export_one(
    store: FeatureStore,
    id: str,
    layout: Layout,
    widths: tuple[int, ...],
    folder: Path,
    *,
    overwrite: bool,
) -> ExportRow:
    try:
        features = store.read(id)
        contents, gaps, missing = _contents(features, layout, widths)
        written = False
        for part, content in contents.items():
            written |= _write(folder, part, content, overwrite=overwrite)
    except StoreError as error:
        return ExportRow(id, "failed", error.message)
    except _Refused as refused:
        return ExportRow(id, "failed", str(refused))
    return ExportRow(id, "done" if written else "skipped", gaps=gaps, missing=missing)


class _Refused(Exception):  # noqa: N818 - becomes a row of the report
    """A file cannot be written, for a reason that is the video's own."""


def _contents(
    features: Features, layout: Layout, widths: tuple[int, ...]
) -> tuple[dict[str, bytes], int, Modality | None]:
    """Bytes of each file by relative path, zeroed steps, and a modality without any."""
    arrays: dict[Part, NDArray[np.float32]] = {}
    gaps, missing = 0, None
    for modality in MODALITIES:
        mask = np.asarray(features[f"{modality}_mask"])
        if not mask.any():
            missing = modality
            continue
        count = int(mask.nonzero()[0][-1]) + 1
        gaps += count - int(mask.sum())
        values, left = features[modality][:count], 0
        for number in layout.of(modality):
            arrays[layout.parts[number]] = np.ascontiguousarray(
                values[:, left : left + widths[number]]
            )
            left += widths[number]
    if not arrays:
        raise _Refused("it has no features: both modalities are masked")
    files: dict[str, dict[str, NDArray[np.float32]]] = {}
    for part, array in arrays.items():
        files.setdefault(part.path(features.id), {})[part.key] = array
    return {path: _encode(parts) for path, parts in files.items()}, gaps, missing


def _encode(arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    if "" in arrays:
        np.save(buffer, arrays[""], allow_pickle=False)
    else:
        np.savez(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()


def _write(folder: Path, relative: str, content: bytes, *, overwrite: bool) -> bool:
    """Write a file below the folder; False where it is there already."""
    parts = PurePosixPath(relative).parts
    if relative.startswith("/") or ".." in parts or "\0" in relative or "\\" in relative:
        raise _Refused(f"{relative!r} would lie outside the folder, or cannot be a file's name")
    path = folder / relative
    try:
        if path.exists():
            if path.read_bytes() == content:
                return False
            if not overwrite:
                raise _Refused(f"{path} is there and differs (--overwrite replaces it)")
        write_bytes(path, content)
    except OSError as error:
        raise _Refused(f"{path} cannot be written: {error.strerror or error}") from error
    return True


def _notes(store: FeatureStore, layout: Layout, rows: list[ExportRow]) -> list[str]:
    notes = []
    if layout.spec is not None and layout.spec.digest != store.digest:
        notes.append(
            f"these are features of {store.spec.name!r} in the layout of {layout.name!r}; they are "
            "not the released ones and cannot be mixed with them"
        )
    if store.spec.vision.classes or store.spec.audio.classes:
        notes.append("class scores of the encoders were not written")
    gaps = sum(row.gaps for row in rows)
    if gaps:
        notes.append(f"{gaps} steps without features, before others with, were written as zeros")
    for modality in MODALITIES:
        count = sum(row.missing == modality for row in rows)
        if count:
            notes.append(f"{count} videos have no {modality}: no file was written for it")
    return notes
