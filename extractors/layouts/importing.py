"""From feature files of the field into a feature store.

A run that was broken off continues: videos that are in the store are skipped as long as their files
have not changed. What failed is tried again by every run; the files are read in milliseconds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from extractors.imported import imported_name, imported_spec
from extractors.layouts.arrays import ArrayFault, read_array_header
from extractors.layouts.table import FoundVideos, Part
from extractors.layouts.video import Fault, LoadedVideo, VideoReader
from extractors.spec import MODALITIES, BackboneSpec, Modality
from extractors.storage.records import Source, fingerprint
from extractors.storage.store import FeatureStore
from extractors.windows import WindowGrid
from pipeline.core.errors import EnvironmentFault, MediaError, UsageError
from pipeline.core.ledger import LedgerRow

PACK_EVERY = 1024  # videos between two packings: small files never pile up
PACK_VIDEOS = 64  # small files from which on it is worth joining them into shards
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SHOWN = 20  # failures that the table shows

Outcome = Literal["done", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class ImportRow:
    """How one video fared.

    Attributes:
        id: The video.
        outcome: ``done``, ``skipped`` or ``failed``.
        reasons: Why it failed or was skipped, one sentence each.
        steps: Steps in the store.
        difference: Steps by which picture and sound differed.
        double: Whether double precision was rounded.
        missing: The modality that is masked because it has no file.
    """

    id: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    steps: int = 0
    difference: int = 0
    double: bool = False
    missing: Modality | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return {
            "id": self.id,
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "steps": self.steps,
            "difference": self.difference,
            "double": self.double,
            "missing": self.missing,
        }


@dataclass(frozen=True, slots=True)
class ImportReport:
    """How an import went.

    Attributes:
        store: Folder of the store.
        backbone: What ``backbone.name`` of a recipe must be.
        rows: One per video, sorted by id; files without an id come last.
        others: Files that belong to no part of the layout.
        unknown: Videos whose duration was not given; 0 where none was.
        cut: Whether videos were cut to the shorter modality.
    """

    store: Path
    backbone: str
    rows: tuple[ImportRow, ...] = field(repr=False)
    others: tuple[str, ...] = field(repr=False)
    unknown: int
    cut: bool

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
            "store": str(self.store),
            "backbone": self.backbone,
            "counts": self.counts,
            "length_differs": self._differing,
            "rounded": self._rounded,
            "without": self._without,
            "duration_unknown": self.unknown,
            "other_files": list(self.others),
            "videos": [row.to_json() for row in self.rows],
        }

    def format_table(self) -> str:
        """The report for a terminal: failures, then the sums."""
        failed = [row for row in self.rows if row.outcome == "failed"]
        lines = [f"failed  {row.id}: {'; '.join(row.reasons)}" for row in failed[:SHOWN]]
        if len(failed) > SHOWN:
            lines.append(f"failed  ... and {len(failed) - SHOWN} more (--json names all)")
        lines += [""] if lines else []
        counts = self.counts
        lines.append(", ".join(f"{count} {name}" for name, count in counts.items() if count))
        lines += [f"note: {note}" for note in self._notes()]
        lines.append(f"{self.store}: backbone.name of a recipe is {self.backbone}")
        return "\n".join(lines)

    @property
    def _done(self) -> list[ImportRow]:
        return [row for row in self.rows if row.outcome == "done"]

    @property
    def _differing(self) -> int:
        return sum(row.difference > 0 for row in self._done)

    @property
    def _rounded(self) -> int:
        return sum(row.double for row in self._done)

    @property
    def _without(self) -> dict[str, int]:
        return dict(Counter(row.missing for row in self._done if row.missing is not None))

    def _notes(self) -> list[str]:
        notes = []
        if self._differing:
            most = max(row.difference for row in self._done)
            what = (
                "cut to the shorter" if self.cut else "kept, the shorter one is masked at its end"
            )
            notes.append(
                f"picture and sound of {self._differing} videos differ in length, by up to {most} "
                f"steps: {what}"
            )
        if self._rounded:
            notes.append(f"{self._rounded} videos in double precision were rounded to single")
        notes += [
            f"{count} videos have no {modality} and are masked there"
            for modality, count in self._without.items()
        ]
        if self.unknown:
            notes.append(f"{self.unknown} videos are not annotated: their length was not checked")
        if self.others:
            notes.append(f"{len(self.others)} other files, among them {self.others[0]}")
        return notes


def with_widths(
    found: FoundVideos, label: str, grid: WindowGrid
) -> tuple[FoundVideos, BackboneSpec]:
    """Fix what a layout for any features leaves open.

    The widths are those of the first sound array of each part; all others must have them too.

    Args:
        found: Videos of a layout without a description of its own.
        label: What their owner calls the features.
        grid: Where their steps lie.

    Returns:
        The videos with a layout whose widths are known, and what the features are.

    Raises:
        UsageError: No array of a part can be read; the label cannot be a name.
    """
    parts = tuple(replace(part, dim=_width(found, part)) for part in found.layout.parts)
    layout = replace(found.layout, parts=parts)
    dims = {
        modality: sum(part.dim or 0 for part in parts if part.modality == modality)
        for modality in MODALITIES
    }
    name = imported_name(label, vision_dim=dims["vision"], audio_dim=dims["audio"], grid=grid)
    spec = imported_spec(name)
    return replace(found, layout=replace(layout, spec=spec)), spec


def _width(found: FoundVideos, part: Part) -> int:
    for files in found.videos.values():
        if part.pattern in files:
            try:
                return read_array_header(files[part.pattern], part.key).shape[1]
            except ArrayFault:
                continue
    raise UsageError(
        f"{found.folder} holds no array at {part.place}",
        hint=f"say with --{part.modality} where the {part.modality} arrays are",
    )


def import_features(
    reader: VideoReader,
    out: str | os.PathLike[str],
    *,
    durations: Mapping[str, float] | None = None,
    overwrite: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> ImportReport:
    """Put all videos of a folder into a store.

    Args:
        reader: Reads the folder.
        out: Folder of the store; made when it is missing.
        durations: Seconds of the videos by id; lengths are checked against them.
        overwrite: Import again what is in the store and has not changed.
        progress: Called after each video.

    Raises:
        StoreError: The folder holds features of another kind, or something else.
    """
    store = FeatureStore.create(out, reader.spec)
    rows = []
    # Small files of a run that was broken off count: so it ends with the same shards.
    small = len(store.loose_paths())
    for id in reader.found.videos:
        if small >= PACK_EVERY:
            store.pack()
            small = 0
        duration = None if durations is None else durations.get(id)
        rows.append(_import_one(reader, store, id, duration, overwrite=overwrite))
        small += rows[-1].outcome == "done"
        progress()
    store.pack(min_videos=PACK_VIDEOS)
    rows += [ImportRow(name, "failed", (reason,)) for name, reason in reader.found.unusable.items()]
    unknown = [] if durations is None else [i for i in reader.found.videos if i not in durations]
    return ImportReport(
        store=store.path,
        backbone=reader.spec.name,
        rows=tuple(rows),
        others=reader.found.others,
        unknown=len(unknown),
        cut=reader.lengths == "shorter",
    )


def _import_one(
    reader: VideoReader, store: FeatureStore, id: str, duration: float | None, *, overwrite: bool
) -> ImportRow:
    started = time.perf_counter()
    files = list(reader.found.videos[id].values())
    known = store.get(id)
    if known is not None and not overwrite and _unchanged(known.source, files):
        return ImportRow(id, "skipped", ("in the store already",), steps=known.summary.steps)
    try:
        loaded: LoadedVideo | list[Fault] = reader.load(id, duration)
        source = _source_of(files)
    except MediaError as error:  # gone while it was read
        loaded = [Fault("unreadable", error.path, error.reason)]
    if isinstance(loaded, list):
        reasons = tuple(map(str, loaded))
        seconds = time.perf_counter() - started
        store.ledger.append(LedgerRow(id, "failed", reason="; ".join(reasons), seconds=seconds))
        return ImportRow(id, "failed", reasons)
    with store.claim(id) as mine:
        if not mine:
            return ImportRow(id, "skipped", ("another process is importing it",))
        _put(store, id, loaded, source, started=started)
    return ImportRow(
        id,
        "done",
        steps=loaded.summary.steps,
        difference=loaded.difference,
        double=loaded.double,
        missing=loaded.missing,
    )


def _put(
    store: FeatureStore, id: str, loaded: LoadedVideo, source: Source, *, started: float
) -> None:
    try:
        with store.writer(id, source=source) as writer:
            writer.append(loaded.rows)
            writer.finish(loaded.summary)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise EnvironmentFault(
            f"{store.path} cannot be written: {error.strerror}",
            hint="make room and run the same command again: it continues",
        ) from error
    row = LedgerRow(
        id,
        "done",
        reason="; ".join(loaded.summary.notes),
        seconds=time.perf_counter() - started,
        details={"steps": loaded.summary.steps},
    )
    store.ledger.append(row)


def _source_of(files: list[Path]) -> Source:
    """One fingerprint for all files of a video."""
    prints = [fingerprint(path) for path in files]
    sample = hashlib.sha256("".join(entry.sample for entry in prints).encode()).hexdigest()
    return Source(
        sum(entry.size for entry in prints), max(entry.mtime_ns for entry in prints), sample
    )


def _unchanged(source: Source | None, files: list[Path]) -> bool:
    """Whether the files are those that were imported; like `Source.matches`, for several."""
    if source is None:
        return True
    try:
        found = [path.stat() for path in files]
    except OSError:
        return False  # the attempt says why
    if sum(entry.st_size for entry in found) != source.size:
        return False
    if max(entry.st_mtime_ns for entry in found) == source.mtime_ns:
        return True
    return _source_of(files).sample == source.sample
