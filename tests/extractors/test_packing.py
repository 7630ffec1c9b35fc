"""Packing while others read and write."""

from __future__ import annotations

import errno
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.features import Rows, Summary
from extractors.shapes import array_shapes
from extractors.storage import copying, packing
from extractors.storage import index as store_index
from extractors.storage.index import ShardIndex
from extractors.storage.store import FeatureStore
from fixtures.backbones import toy
from pipeline.core.locks import LockFile

SPEC = toy().spec
IDS = [f"v{number:02}" for number in range(24)]


def put(store: FeatureStore, id: str, *, value: int = 0, steps: int = 3) -> None:
    rows: Rows = {
        name: np.full((steps, *shape), value, dtype=bool if name.endswith("mask") else np.float32)
        for name, shape in array_shapes(SPEC).items()
    }
    with store.writer(id) as writer:
        writer.append(rows)
        writer.finish(Summary(1.5, steps, {"vision": 1.0}, {"vision": "decord"}, "done"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setattr(packing, "SHARD_VIDEOS", 2)
    store = FeatureStore.create(tmp_path / "store", SPEC)
    for id in IDS:
        put(store, id)
    return store


def assert_packed(store: FeatureStore) -> None:
    assert store.loose_paths() == [] and store.ids() == IDS
    assert list(store.verify()) == []
    assert not list(store.path.rglob("*.part"))


def test_the_index_is_written_once_for_many_shards(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = [], ShardIndex._write

    def write(self: ShardIndex, listing: Any, known: Any) -> None:
        written.append(len(listing))
        real(self, listing, known)

    monkeypatch.setattr(ShardIndex, "_write", write)
    monkeypatch.setattr(packing, "SHARDS_AT_ONCE", 8)
    assert store.pack() == 24
    assert written == [8, 12]
    assert_packed(store)


def test_a_disk_too_full_for_many_shards_is_filled_one_by_one(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packing._write_shards

    def full(store: FeatureStore, shards: Iterable[Sequence[Any]]) -> None:
        real(store, at_most_one(shards))

    def at_most_one(shards: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        for number, items in enumerate(shards):
            if number:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield items

    monkeypatch.setattr(packing, "_write_shards", full)
    assert store.pack() == 24
    assert_packed(store)


@pytest.mark.parametrize("steps", [0, 1, 13, 20])
def test_packing_that_is_stopped_leaves_the_rest_for_the_next_time(
    store: FeatureStore, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARDS_AT_ONCE", 4)
    asked: list[int] = []

    def go_on() -> bool:
        asked.append(1)
        return len(asked) <= steps

    packed = store.pack(go_on=go_on)
    assert packed == {0: 0, 1: 0, 13: 8, 20: 16}[steps]
    assert len(store.loose_paths()) == 24 - packed and store.ids() == IDS
    assert not list(store.path.rglob("*.part"))
    assert store.pack() == 24 - packed
    assert_packed(store)


def test_a_video_that_is_replaced_while_it_is_packed_is_never_mixed(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file has other lengths: read with the old header, it would give other bytes."""
    real, replaced = packing.write_features, []

    def write(handle: Any, **what: Any) -> None:
        if not replaced:
            replaced.append(what["records"][0].id)
            put(FeatureStore.open(store.path), replaced[0], value=1, steps=9)
        real(handle, **what)

    monkeypatch.setattr(packing, "write_features", write)
    assert store.pack() == 24
    assert_packed(store)
    features = store.read(replaced[0])
    assert features.arrays["vision"].shape[0] == 9 and (features.arrays["vision"] == 1).all()


def test_a_reader_misses_no_video_while_they_are_packed(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARDS_AT_ONCE", 1)
    packer = multiprocessing.get_context("fork").Process(target=_pack_slowly, args=(store,))
    packer.start()
    looks = 0
    while packer.is_alive():
        assert store.ids() == IDS
        assert store.read(IDS[looks % len(IDS)]).arrays["vision"].shape[0] == 3
        looks += 1
    packer.join()
    assert packer.exitcode == 0 and looks > 3
    assert_packed(store)


def _pack_slowly(store: FeatureStore) -> None:
    def go_on() -> bool:
        time.sleep(0.01)
        return True

    store.pack(go_on=go_on)


def test_one_of_many_readers_writes_the_index_and_the_others_wait(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pack()
    (store.path / "index.sqlite").unlink()
    written, real = [], ShardIndex._write

    def write(self: ShardIndex, listing: Any, known: Any) -> None:
        written.append(threading.get_ident())
        time.sleep(0.2)
        real(self, listing, known)

    monkeypatch.setattr(ShardIndex, "_write", write)
    found: list[list[str]] = []
    readers = [
        threading.Thread(target=_look, args=(store.path, found.append), daemon=True)
        for _ in range(5)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found == [IDS] * 5 and len(written) == 1


def _look(path: Path, tell: Callable[[list[str]], None]) -> None:
    tell(FeatureStore.open(path).ids())


def test_an_index_writer_that_does_not_end_is_not_waited_for(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_index, "TURN_S", 0.2)
    store.pack()
    (store.path / "index.sqlite").unlink()
    holding, end = threading.Event(), threading.Event()

    def hold() -> None:
        with store.locks.hold("index", wait=True):
            holding.set()
            end.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    try:
        assert FeatureStore.open(store.path).ids() == IDS
    finally:
        end.set()
        holder.join()


def test_a_lock_that_was_granted_for_want_of_a_file_can_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that may only be read, which root may open for writing and still not write."""
    lock = LockFile(tmp_path / "locks")

    def refuse() -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock, "_descriptor", refuse)
    with lock.hold("a name", wait=True) as mine:
        assert mine
    assert not lock.excludes


def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each small file is opened from now on."""
    counts, real = Counter[str](), Path.open

    def count(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.parent.name == "videos":
            counts[self.name] += 1
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", count)
    return counts


@pytest.mark.parametrize(("headers", "times"), [(packing.KEPT_HEADERS, 3), (0, 4)])
def test_a_small_file_is_read_once_whatever_arrays_are_in_it(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, headers: int, times: int
) -> None:
    """Once for its header, once for all arrays, once before it is removed."""
    monkeypatch.setattr(packing, "KEPT_HEADERS", headers)
    counts = opened(monkeypatch)
    assert store.pack() == 24
    assert set(counts.values()) == {times}
    assert_packed(store)


def test_narrow_arrays_that_are_too_long_to_wait_are_read_when_they_are_due(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "KEPT_BYTES", 0)
    counts = opened(monkeypatch)
    assert store.pack() == 24
    assert set(counts.values()) == {2 + 3}  # once for the arrays of each width
    assert_packed(store)


@pytest.mark.parametrize("offset", [-1, -10])
def test_damage_that_only_copying_finds_keeps_its_video_out_and_no_other(
    store: FeatureStore, offset: int
) -> None:
    bad = store.loose_path(IDS[3])
    data = bytearray(bad.read_bytes())
    data[offset] ^= 1
    bad.write_bytes(bytes(data))
    assert store.pack() == 23
    assert store.loose_paths() == [bad]
    assert [damage.path for damage in store.verify()] == [bad]
    assert sorted({*store.ids()} - {IDS[3]}) == [id for id in IDS if id != IDS[3]]


def test_a_file_that_vanishes_before_it_is_copied_is_left_out(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packing._known

    def gone(store: FeatureStore, group: Any) -> Any:
        store.loose_path(IDS[0]).unlink(missing_ok=True)
        return real(store, group)

    monkeypatch.setattr(packing, "_known", gone)
    assert store.pack() == 23
    assert store.ids() == IDS[1:]
    assert list(store.verify()) == []
