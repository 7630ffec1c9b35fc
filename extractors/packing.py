"""Join small files of a store into shards, find damage, and take it out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from extractors.feature_file import (
    FeatureFile,
    UnreadableError,
    file_name,
    read_feature_file,
    write_feature_file,
)
from extractors.records import Record
from pipeline.core.atomic import fsync_directory
from pipeline.core.errors import StoreError

if TYPE_CHECKING:
    from extractors.store import FeatureStore

SHARD_BYTES = 256 << 20
SHARD_VIDEOS = 256  # a shard's header is read as a whole: this keeps it at some 300 kB


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a store that does not agree with its hash.

    Attributes:
        path: The file.
        ids: Videos that it concerns, as far as they are known.
        reason: What is wrong.
        readable: Whether the file could be read at all: only then is it known to be damaged.
    """

    path: Path
    ids: tuple[str, ...]
    reason: str
    readable: bool = True


@dataclass(frozen=True, slots=True)
class _Item:
    """One video in one file."""

    file: FeatureFile
    record: Record


def pack_videos(store: FeatureStore, *, min_videos: int) -> int:
    """Join small files into shards; see `FeatureStore.pack`. The caller holds the lock.

    A shard is written and indexed before the small files go: at every moment each video is in one
    of the two at least. Videos are taken in the order of their ids, so that a run that was broken
    off and one that was not fill the same shards.
    """
    paths = store.loose_paths()
    if len(paths) < max(1, min_videos):
        return 0
    items = sorted(_whole(store, paths), key=lambda item: item.record.id)
    fresh = []
    for item in items:
        shelf = store.index.get(item.record.id)
        # Packed already by a run that was killed before it removed the small file.
        if shelf is not None and shelf.record == item.record:
            _remove(store, item)
        else:
            fresh.append(item)
    for group in _groups(fresh):
        _write_shard(store, group)
        store.index.refresh()
        for item in group:
            _remove(store, item)
    return len(items)


def find_damage(store: FeatureStore) -> Iterator[Damage]:
    """Read everything; see `FeatureStore.verify`."""
    for path in [*store.index.shards(), *store.loose_paths()]:
        try:
            file = read_feature_file(path, digest=store.digest)
            unsound = [id for id in file.ids if not _is_sound(file, id)]
        except FileNotFoundError:
            continue  # packed meanwhile
        except StoreError as error:
            readable = not isinstance(error, UnreadableError)
            yield Damage(path, tuple(_lost_with(store, path)), error.message, readable)
            continue
        for id in unsound:
            yield Damage(path, (id,), "its arrays are not those that were written")


def repair_files(store: FeatureStore) -> list[str]:
    """Remove what is damaged; see `FeatureStore.repair`. The caller holds the lock."""
    damaged: dict[Path, set[str]] = {}
    for damage in find_damage(store):
        if not damage.readable:  # perhaps whole: a disk that does not answer is no reason to delete
            raise UnreadableError(
                f"{damage.reason}; nothing was repaired",
                hint="check the disk or the network folder; if it stays, move the file away",
            )
        damaged.setdefault(damage.path, set()).update(damage.ids)
    for path, ids in damaged.items():
        with suppress(StoreError):
            file = read_feature_file(path, digest=store.digest)
            whole = [_Item(file, file.record(id)) for id in file.ids if id not in ids]
            if whole:
                _write_shard(store, sorted(whole, key=lambda item: item.record.id))
        path.unlink(missing_ok=True)
        fsync_directory(path.parent)
    store.index.rebuild()
    return sorted(id for ids in damaged.values() for id in ids if store.get(id) is None)


def _whole(store: FeatureStore, paths: Sequence[Path]) -> Iterator[_Item]:
    """Videos in small files that agree with their hashes; the others stay, for verify() to name."""
    for path in paths:
        with suppress(StoreError, FileNotFoundError):
            file = read_feature_file(path, digest=store.digest)
            for id in file.ids:
                if _is_sound(file, id):
                    yield _Item(file, file.record(id))


def _is_sound(file: FeatureFile, id: str) -> bool:
    try:
        return file.is_sound(id)
    except UnreadableError:
        raise
    except (KeyError, StoreError):
        return False


def _groups(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Cut a row of videos into shards."""
    group: list[_Item] = []
    size = 0
    for item in items:
        if group and (size + item.file.tensors.size > SHARD_BYTES or len(group) >= SHARD_VIDEOS):
            yield group
            group, size = [], 0
        group.append(item)
        size += item.file.tensors.size
    if group:
        yield group


def _write_shard(store: FeatureStore, items: Sequence[_Item]) -> None:
    """Write a shard whose name says what is in it: written twice, it is the same file."""
    records = [item.record for item in items]
    content = "\n".join(f"{r.id}\0{r.revision}\0{r.sha256}" for r in records)
    name = hashlib.sha256(content.encode()).hexdigest()[:32] + ".safetensors"
    write_feature_file(
        store.path / "shards" / name,
        digest=store.digest,
        records=records,
        sources=(source for item in items for source in item.file.sources(item.record.id)),
    )


def _remove(store: FeatureStore, item: _Item) -> None:
    """Delete a small file that has been packed, unless a writer has replaced it or is about to."""
    with store.locks.hold(f"video {item.record.id}", wait=False) as mine:
        if not mine:
            return  # packed the next time
        with suppress(StoreError, FileNotFoundError):
            file = read_feature_file(item.file.path, digest=store.digest)
            if file.record(item.record.id) == item.record:
                item.file.path.unlink()


def _lost_with(store: FeatureStore, path: Path) -> Iterator[str]:
    """Ids of a damaged file: those of a shard are in the index, that of a small one is its name."""
    if path.parent == store.loose_path("any").parent:
        yield from (id for id in store.ledger.latest() if file_name(id) == path.name)
        return
    for id in store.index.ids():
        shelf = store.index.get(id)
        if shelf is not None and shelf.shard == path:
            yield id
