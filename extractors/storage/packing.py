"""Join small files of a store into shards, find damage, and take it out."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from extractors.shapes import array_shapes
from extractors.storage.copying import ChangedError, copied
from extractors.storage.feature_file import (
    FeatureFile,
    UnreadableError,
    file_name,
    read_feature_file,
    write_features,
)
from extractors.storage.records import Record
from extractors.storage.view import StoreView
from pipeline.core.atomic import atomic_file, fsync_directory
from pipeline.core.errors import StoreError

Step = TypeVar("Step")

SHARD_BYTES = 256 << 20
KEPT_HEADERS = 16_384  # of small files, some 4 kB each; of more of them, headers are read twice
SHARDS_AT_ONCE = 16  # the index, which holds all videos, is written once for so many
SHARD_VIDEOS = 256  # a shard's header is read as a whole: this keeps it at some 300 kB
SHARD_NAMES = 1 << 20  # bytes of all ids, which are in that header several times


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


@dataclass(frozen=True, slots=True)
class _Loose:
    """A video that is to be packed: its small file, the size of that, and its header if kept."""

    id: str
    path: Path
    size: int
    item: _Item | None


def pack_videos(store: StoreView, *, min_videos: int, go_on: Callable[[], bool]) -> int:
    """Join small files into shards; see `FeatureStore.pack`. The caller holds the lock.

    A shard is written and indexed before the small files go: at every moment each video is in one
    of the two at least. Videos are taken in the order of their ids, so that a run that was broken
    off and one that was not fill the same shards.
    """
    paths = store.loose_paths()
    if len(paths) < max(1, min_videos):
        return 0
    fresh: list[_Loose] = []
    packed = 0
    for item in _items(store, paths):
        shelf = store.index.get(item.record.id)
        # Packed already by a run that was killed before it removed the small file.
        if shelf is not None and shelf.record == item.record:
            _remove(store, item)
            packed += 1
        else:
            kept = item if len(fresh) < KEPT_HEADERS else None
            fresh.append(_Loose(item.record.id, item.file.path, item.file.tensors.size, kept))
    groups = _groups(sorted(fresh, key=lambda loose: loose.id))
    with suppress(_StoppedError):
        while batch := list(islice(groups, SHARDS_AT_ONCE)):
            packed += _shelve(store, batch, go_on)
    return packed


class _StoppedError(Exception):
    """Packing was asked to stop."""


def _asking(go_on: Callable[[], bool], steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps, as long as the answer is yes."""
    for step in steps:
        if not go_on():
            raise _StoppedError
        yield step


def _is_in_place(store: StoreView, item: _Item) -> bool:
    """Whether the small file of a video still holds this record."""
    try:
        file = read_feature_file(item.file.path, digest=store.digest)
        return file.record(item.record.id) == item.record
    except UnreadableError:
        raise
    except (StoreError, FileNotFoundError, KeyError):
        return False


def _shelve(store: StoreView, groups: Sequence[Sequence[_Loose]], go_on: Callable[[], bool]) -> int:
    """Put some groups of videos into a shard each; return the number of videos.

    Arrays are compared with their hashes while they are copied, so that each file is read once.
    Only where one of them does not agree, because it is damaged or a writer has put another file in
    its place, all are looked at first.
    """
    try:
        return _put(store, groups, go_on, _known)
    except ChangedError:
        return _put(store, groups, go_on, _whole)


def _put(
    store: StoreView,
    groups: Sequence[Sequence[_Loose]],
    go_on: Callable[[], bool],
    choose: Callable[[StoreView, Iterable[_Loose]], Iterator[_Item]],
) -> int:
    shelves = [list(choose(store, group)) for group in _asking(go_on, groups)]
    try:
        _write_shards(store, _asking(go_on, filter(None, reversed(shelves))))
    except ChangedError:
        if choose is _known:
            raise
        return _put(store, groups, go_on, choose)  # replaced since: looked at anew
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or len(groups) == 1:
            raise
        return sum(_shelve(store, [group], go_on) for group in groups)  # each makes room
    store.index.refresh()
    for item in chain.from_iterable(shelves):
        _remove(store, item)
    return sum(map(len, shelves))


def find_damage(store: StoreView) -> Iterator[Damage]:
    """Read everything; see `FeatureStore.verify`."""
    for path in [*store.index.shards(), *store.loose_paths()]:
        try:
            file = read_feature_file(path, digest=store.digest)
            unsound = [id for id in file.ids if not _is_sound(store, file, id)]
        except FileNotFoundError:
            continue  # packed meanwhile
        except StoreError as error:
            readable = not isinstance(error, UnreadableError)
            yield Damage(path, tuple(_lost_with(store, path)), error.message, readable)
            continue
        for id in unsound:
            yield Damage(path, (id,), "its arrays are not those that were written")


def repair_files(store: StoreView) -> list[str]:
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
                _write_shards(store, [sorted(whole, key=lambda item: item.record.id)])
        path.unlink(missing_ok=True)
        fsync_directory(path.parent)
    store.index.rebuild()
    return sorted(id for ids in damaged.values() for id in ids if store.get(id) is None)


def _items(store: StoreView, paths: Iterable[Path]) -> Iterator[_Item]:
    """Videos in small files whose headers can be read."""
    for path in paths:
        with suppress(StoreError, FileNotFoundError):
            file = read_feature_file(path, digest=store.digest)
            for id in file.ids:
                yield _Item(file, file.record(id))


def _known(store: StoreView, group: Iterable[_Loose]) -> Iterator[_Item]:
    """Videos in small files, by their headers as they were read first."""
    for loose in group:
        if loose.item is not None:
            yield loose.item
        else:
            yield from _items(store, [loose.path])


def _whole(store: StoreView, group: Iterable[_Loose]) -> Iterator[_Item]:
    """Videos in small files that agree with their hashes; the others stay, for verify() to name."""
    for item in _items(store, [loose.path for loose in group]):
        with suppress(StoreError, FileNotFoundError):
            if _is_sound(store, item.file, item.record.id):
                yield item


def _is_sound(store: StoreView, file: FeatureFile, id: str) -> bool:
    try:
        return file.is_sound(id) and file.fits(id, array_shapes(store.spec))
    except UnreadableError:
        raise
    except (KeyError, StoreError):
        return False


def _groups(loose: Iterable[_Loose]) -> Iterator[list[_Loose]]:
    """Cut a row of videos into shards."""
    group: list[_Loose] = []
    size = names = 0
    for one in loose:
        size, names = size + one.size, names + len(one.id.encode())
        if group and (size > SHARD_BYTES or names > SHARD_NAMES or len(group) >= SHARD_VIDEOS):
            yield group
            group, size, names = [], one.size, len(one.id.encode())
        group.append(one)
    if group:
        yield group


def _write_shards(store: StoreView, shards: Iterable[Sequence[_Item]]) -> None:
    """Write shards whose names say what is in them: written twice, they are the same files.

    They get their names together, the last one first, when all are on the disk: other processes
    look at the shards whenever their folder has changed.
    """
    with ExitStack() as named:
        for items in shards:
            records = [item.record for item in items]
            content = "\n".join(f"{r.id}\0{r.revision}\0{r.sha256}" for r in records)
            name = hashlib.sha256(content.encode()).hexdigest()[:32] + ".safetensors"
            handle = named.enter_context(atomic_file(store.path / "shards" / name))
            write_features(
                handle,
                digest=store.digest,
                records=records,
                sources=(source for item in items for source in copied(item.file, item.record)),
            )
            handle.flush()
            os.fsync(handle.fileno())


def _remove(store: StoreView, item: _Item) -> None:
    """Delete a small file that has been packed, unless a writer has replaced it or is about to."""
    with store.locks.hold(f"video {item.record.id}", wait=False) as mine:
        if not mine:
            return  # packed the next time
        with suppress(StoreError, FileNotFoundError):
            if _is_in_place(store, item):
                item.file.path.unlink()


def _lost_with(store: StoreView, path: Path) -> Iterator[str]:
    """Ids of a damaged file: those of a shard are in the index, that of a small one is its name."""
    if path.parent == store.loose_path("any").parent:
        yield from {row.id for row in store.ledger.rows() if file_name(row.id) == path.name}
        return
    for id in store.index.ids():
        shelf = store.index.get(id)
        if shelf is not None and shelf.shard == path:
            yield id
