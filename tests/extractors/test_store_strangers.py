"""Stores that somebody else made to harm: headers, indexes and links that are not as we write them.

What such a store may do is be refused, or be damaged: an error of ours that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.features import Rows, Summary
from extractors.shapes import array_shapes
from extractors.storage import packing
from extractors.storage.feature_file import write_feature_file
from extractors.storage.records import Record, hash_arrays
from extractors.storage.safetensors_io import HEADER_LIMIT, TensorSource
from extractors.storage.store import LONGEST_ID, FeatureStore
from fixtures.backbones import TOY
from pipeline.cli import main
from pipeline.core.errors import StoreError, UsageError
from pipeline.core.ledger import LedgerRow

SPEC = TOY.spec
STEPS = 3


def rows(value: float) -> Rows:
    """Arrays of which every value is the same."""
    shapes = array_shapes(SPEC)
    return {
        name: np.full((STEPS, *shape), value, bool if name.endswith("mask") else np.float32)
        for name, shape in shapes.items()
    }


def put(store: FeatureStore, id: str, value: float) -> None:
    with store.writer(id) as writer:
        writer.append(rows(value))
        writer.finish(Summary(1.0, STEPS, {}, {}, "done", ()))


def value_of(store: FeatureStore, id: str) -> float:
    (value,) = np.unique(store.read(id)["vision"])
    return float(value)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Two videos in a shard each, one in a file of its own."""
    store = FeatureStore.create(tmp_path / "store", SPEC)
    for number, id in enumerate(("a", "b")):
        put(store, id, float(number))
        store.pack()
    put(store, "loose", 2.0)
    return store


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A shard of a store of its owner's, with the video "private"."""
    other = FeatureStore.create(tmp_path / "elsewhere", SPEC)
    put(other, "private", 9.0)
    other.pack()
    (shard,) = (other.path / "shards").iterdir()
    return shard


def change_index(store: FeatureStore, script: str, *values: object) -> None:
    with closing(sqlite3.connect(store.path / "index.sqlite")) as connection, connection:
        connection.execute(script, values)


def change_header(path: Path, change: Callable[[str], str]) -> None:
    """Rewrite the JSON at the head of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = change(data[8 : 8 + length].decode()).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize("way", ["absolute", "upwards", "no text"])
def test_an_index_cannot_lead_out_of_the_store(
    store: FeatureStore, elsewhere: Path, way: str
) -> None:
    shard: object = {
        "absolute": str(elsewhere),
        "upwards": os.path.relpath(elsewhere, store.path / "shards"),
        "no text": str(elsewhere).encode(),
    }[way]
    with closing(sqlite3.connect(elsewhere.parents[1] / "index.sqlite")) as theirs:
        ((record,),) = theirs.execute("SELECT record FROM videos").fetchall()
    change_index(store, "INSERT INTO videos VALUES ('private', 0, ?, ?)", shard, record)
    hostile = FeatureStore.open(store.path)
    assert "private" not in hostile
    with pytest.raises(StoreError, match="no features of 'private'"):
        hostile.read("private")
    assert hostile.ids() == ["a", "b", "loose"]  # the index has been made again
    assert [value_of(hostile, id) for id in hostile.ids()] == [0.0, 1.0, 2.0]


def test_an_index_that_confuses_the_shards_is_made_again(store: FeatureStore) -> None:
    names = sorted(path.name for path in (store.path / "shards").iterdir())
    for old, new in ((names[0], "x"), (names[1], names[0]), ("x", names[1])):
        change_index(store, "UPDATE videos SET shard = ? WHERE shard = ?", new, old)
    fresh = FeatureStore.open(store.path)
    assert [value_of(fresh, id) for id in ("a", "b")] == [0.0, 1.0]


def test_an_index_that_names_no_shard_is_an_error_of_the_store(store: FeatureStore) -> None:
    change_index(store, "UPDATE videos SET shard = 'gone.safetensors' WHERE id = 'a'")
    fresh = FeatureStore.open(store.path)
    with pytest.raises(StoreError, match=r"gone\.safetensors.*repair"):
        fresh.read("a")
    fresh.repair()
    assert value_of(fresh, "a") == 0.0


def test_an_index_of_other_tables_than_ours_is_not_asked(store: FeatureStore) -> None:
    """A view is a program: this one never ends."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    change_index(store, "ALTER TABLE videos RENAME TO hidden")
    view = "SELECT * FROM hidden WHERE id NOT IN (SELECT 'x' || i FROM n LIMIT 100000000)"
    change_index(store, f"CREATE VIEW videos AS {endless}{view}")
    fresh = FeatureStore.open(store.path)
    assert fresh.ids() == ["a", "b", "loose"]
    with closing(sqlite3.connect(store.path / "index.sqlite")) as connection:
        kinds = connection.execute("SELECT name, type FROM sqlite_master WHERE sql IS NOT NULL")
        assert dict(kinds.fetchall()) == {"shards": "table", "videos": "table"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('\\"revision\\": 0', f'\\"revision\\": {10**30}'),
        ('\\"revision\\": 0', '\\"revision\\": -1'),
        ('\\"id\\": \\"a\\"', '\\"id\\": 7'),
        ('\\"id\\": \\"a\\"', '\\"id\\": \\"\\\\ud800\\"'),
        ('\\"id\\": \\"a\\"', '\\"id\\": [1]'),
        ('"shape":[3,3]', '"shape":[Infinity,3]'),
        ('"shape":[3,3]', f'"shape":{"[" * 100_000}'),
        ('"data_offsets":[0', '"data_offsets":[-Infinity'),
    ],
)
@pytest.mark.parametrize("where", ["videos", "shards"])
def test_a_header_that_is_made_to_harm_is_damage_and_harms_no_other(
    tmp_path: Path, where: str, old: str, new: str
) -> None:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    put(store, "a", 1.0)
    if where == "shards":
        store.pack()
    (path,) = (store.path / where).iterdir()
    put(store, "other", 2.0)
    assert old in path.read_bytes().decode("latin1")
    change_header(path, lambda text: text.replace(old, new, 1))
    fresh = FeatureStore.open(store.path)
    fresh.rebuild_index()
    assert [damage.path for damage in fresh.verify()] == [path]
    assert value_of(fresh, "other") == 2.0
    with pytest.raises(StoreError):
        fresh.read("a")
    fresh.repair()
    assert not path.exists() and FeatureStore.open(store.path).ids() == ["other"]


def test_no_values_in_more_rows_than_there_can_be_are_damage(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    put(store, "a", 1.0)
    path = store.loose_path("a")

    def change(text: str) -> str:
        header = json.loads(text)
        header["a/vision"] |= {"shape": [0, 10**30], "data_offsets": [0, 0]}
        return json.dumps(header)

    change_header(path, change)
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(store.path).read("a")


@pytest.mark.parametrize(
    "value", ["[" * 100_000, "[]", '{"format": "davel-features", "version": 1, "backbone": []}']
)
def test_a_description_that_is_made_to_harm_is_refused(store: FeatureStore, value: str) -> None:
    (store.path / "store.json").write_text(value)
    with pytest.raises(StoreError):
        FeatureStore.open(store.path)


@pytest.mark.parametrize("number", [["1", "0"], [1e999, 1], "1/0"])
def test_a_description_whose_grid_is_no_number_is_refused(store: FeatureStore, number: Any) -> None:
    file = store.path / "store.json"
    value = json.loads(file.read_text())
    assert "fps" in value["backbone"]["grid"]
    value["backbone"]["grid"]["fps"] = number
    file.write_text(json.dumps(value))
    with pytest.raises(StoreError):
        FeatureStore.open(store.path)


@pytest.mark.parametrize("where", ["videos", "shards"])
@pytest.mark.parametrize("target", ["a file of features", "nowhere", "a pipe"])
def test_what_is_no_plain_file_is_told_and_not_passed_over(
    store: FeatureStore, elsewhere: Path, where: str, target: str
) -> None:
    path = store.path / where / ("0" * 32 + ".safetensors")
    if where == "videos":
        path = store.loose_path("private")
    if target == "a pipe":
        os.mkfifo(path)
        held = os.open(path, os.O_RDWR)  # so that opening it to read waits for nobody
        os.write(held, b"\0" * 4096)
    else:
        path.symlink_to(elsewhere if target == "a file of features" else "/nowhere")
    what = "is no file" if target == "a pipe" else "is a link"
    fresh = FeatureStore.open(store.path)
    asked: list[Callable[[], object]] = [fresh.ids, fresh.repair]
    if where == "videos":
        asked.append(lambda: fresh.get("private"))
        (damage,) = fresh.verify()
        assert damage.path == path and what in damage.reason
    for ask in asked:
        with pytest.raises(StoreError, match=f"{path.name} {what}"):
            ask()
    assert os.path.lexists(path) and elsewhere.exists()
    path.unlink()
    assert fresh.ids() == ["a", "b", "loose"]
    if target == "a pipe":
        os.close(held)


def test_a_shard_that_becomes_a_link_is_not_read_by_its_place_in_the_index(
    store: FeatureStore, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in list((store.path / "shards").iterdir()):
        shutil.move(path, moved)
        path.symlink_to(moved / path.name)
    fresh = FeatureStore.open(store.path)
    with pytest.raises(StoreError, match="is a link"):
        fresh.read("a")


def sealed(text: str, **changes: object) -> str:
    """A header whose one record has other values, and a seal that fits them."""
    header = json.loads(text)
    (record,) = json.loads(header["__metadata__"]["records"])
    del record["seal"]
    record["summary"] |= changes
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["seal"] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    header["__metadata__"]["records"] = json.dumps([record])
    return json.dumps(header)


@pytest.mark.parametrize(
    "changes",
    [
        {"coverage": {"vision": "<b>"}},
        {"coverage": {"vision": 1e999}},
        {"readers": {"vision": [1]}},
        {"notes": [["deep"]]},
        {"status": 7},
        {"duration": -1},
        {"duration": "nan"},
        {"steps": -3},
    ],
    ids=str,
)
def test_a_sealed_record_of_strange_values_is_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    """How seals are made is no secret."""
    store = FeatureStore.create(tmp_path / "store", SPEC)
    put(store, "a", 1.0)
    change_header(store.loose_path("a"), sealed)
    assert value_of(FeatureStore.open(store.path), "a") == 1.0, "the seal is made as ours is"
    change_header(store.loose_path("a"), partial(sealed, **changes))
    assert FeatureStore.open(store.path).get("a") is None
    assert main(["features", "show", str(store.path), "a"]) == 2
    assert main(["features", "verify", str(store.path)]) == 1
    assert "internal error" not in capsys.readouterr().err


def test_arrays_of_another_length_than_the_backbones_are_damage(store: FeatureStore) -> None:
    """Their hash fits them; a net that takes them would not."""
    shape = array_shapes(SPEC)["vision"]
    wide = {**rows(5.0), "vision": np.ones((STEPS, shape[0] + 1), np.float32)}
    table = {
        name: (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        for name, array in wide.items()
    }
    summary = Summary(1.0, STEPS, {}, {}, "done", ())
    path = store.loose_path("wide")
    write_feature_file(
        path,
        digest=store.digest,
        records=[Record("wide", 0, summary, None, hash_arrays(table))],
        sources=[
            TensorSource(f"wide/{name}", array.dtype.str, array.shape, [array.tobytes()])
            for name, array in wide.items()
        ],
    )
    fresh = FeatureStore.open(store.path)
    with pytest.raises(StoreError, match="not of the types and lengths"):
        fresh.read("wide")
    assert [damage.path for damage in fresh.verify()] == [path]
    assert fresh.repair() == ["wide"] and fresh.ids() == ["a", "b", "loose"]


def test_a_header_that_would_fill_the_memory_is_damage(store: FeatureStore) -> None:
    """Each two bytes of it would be an object of its own."""
    path = store.loose_path("bomb")
    text = b"[" + b"{}," * (HEADER_LIMIT // 3) + b"{}]"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    tracemalloc.start()
    (damage,) = FeatureStore.open(store.path).verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert damage.path == path and peak < HEADER_LIMIT // 2


def test_a_hard_link_to_a_file_of_ours_leaves_it_alone(store: FeatureStore, tmp_path: Path) -> None:
    victim = tmp_path / "mine"
    victim.write_bytes(b"precious " * 100)
    (store.path / "ledger").mkdir(exist_ok=True)
    os.link(victim, store.loose_path("linked"))
    os.link(victim, store.path / "ledger" / "other.jsonl")
    fresh = FeatureStore.open(store.path)
    fresh.repair()
    put(fresh, "linked", 3.0)
    fresh.pack()
    fresh.ledger.append(LedgerRow("linked", "done"))
    assert victim.read_bytes() == b"precious " * 100
    assert fresh.ids() == ["a", "b", "linked", "loose"]


def test_ids_are_no_longer_than_paths_and_long_ones_fill_no_header(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    with pytest.raises(UsageError, match="has 16,385 bytes, 16,384 at the most"):
        store.writer("x" * (LONGEST_ID + 1))
    ids = sorted(str(number) * LONGEST_ID for number in range(3))
    for id in ids:
        put(store, id, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_NAMES", 2 * LONGEST_ID)
        assert store.pack() == 3
    assert len(list((store.path / "shards").iterdir())) == 2 and store.ids() == ids
    assert [value_of(store, id) for id in ids] == [1.0] * 3
