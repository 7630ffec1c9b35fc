from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import extractors.storage.packing as packing
from extractors.features import Rows, Summary
from extractors.shapes import array_shapes, row_bytes
from extractors.spec import BackboneSpec
from extractors.storage.records import Source, fingerprint
from extractors.storage.safetensors_io import FormatFault, read_header
from extractors.storage.store import FeatureStore
from fixtures.backbones import toy
from pipeline.core.errors import MediaError, StoreError, UsageError

SPEC = toy().spec
OTHER_SPEC = toy(unit="window").spec
ROOT = Path(__file__).parents[2]
WEIRD_IDS = ["a b/ü 動画.mp4", 'it\'s "quoted"/%s\n.mp4', "a/vision", "__metadata__", "😀" * 80]


def rows(id: str, steps: int, *, revision: int = 0) -> Rows:
    """Arrays that follow from the id alone."""
    generator = np.random.default_rng([revision, *id.encode()])
    made: Rows = {}
    for name, shape in array_shapes(SPEC).items():
        values = generator.random((steps, *shape))
        made[name] = values > 0.5 if name.endswith("mask") else values.astype(np.float32)
    return made


def summary(steps: int) -> Summary:
    return Summary(
        duration=steps / 4 + 0.75,
        steps=steps,
        coverage={"vision": 1.0, "audio": 0.5},
        readers={"vision": "decord", "audio": "ffmpeg"},
        status="partial",
        notes=("audio ends at 1.0 s, the container promises 2.0 s",),
    )


def steps_of(id: str) -> int:
    return 1 + len(id) * 7 % 50


def put(store: FeatureStore, id: str, *, revision: int = 0, chunk: int = 9) -> None:
    made, steps = rows(id, steps_of(id), revision=revision), steps_of(id)
    with store.writer(id, source=Source(10, 20, "ab")) as writer:
        for low in range(0, steps, chunk):
            writer.append({name: array[low : low + chunk] for name, array in made.items()})
        writer.finish(summary(steps))


def check(store: FeatureStore, id: str, *, revision: int = 0) -> None:
    features = store.read(id)
    assert features.digest == SPEC.digest and features.grid == SPEC.grid
    expected = rows(id, steps_of(id), revision=revision)
    assert features.arrays.keys() == expected.keys()
    for name, array in features.arrays.items():
        assert np.array_equal(array, expected[name].astype(array.dtype)), name
    assert features.summary == summary(steps_of(id))


def files(path: Path) -> dict[str, bytes]:
    """All data files of a store; the index is derived, ledger and locks tell of the run."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for part in ("store.json", "videos/*", "shards/*")
        for file in path.glob(part)
        if not file.name.startswith(".")
    }


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store", SPEC)


@pytest.mark.parametrize("id", WEIRD_IDS)
def test_what_was_written_is_read(store: FeatureStore, id: str) -> None:
    put(store, id)
    check(store, id)
    record = store.record(id)
    assert record.source == Source(10, 20, "ab") and record.revision == 0
    assert store.ids() == [id] and id in store and len(store) == 1


def test_arrays_have_the_types_of_the_format(store: FeatureStore) -> None:
    put(store, "a")
    types = {name: array.dtype.str for name, array in store.read("a").arrays.items()}
    assert types == {
        "vision": "<f4",
        "audio": "<f4",
        "vision_mask": "|b1",
        "audio_mask": "|b1",
        "vision_scores": "<f2",
    }


def test_packing_changes_no_value_and_leaves_no_small_file(store: FeatureStore) -> None:
    for id in WEIRD_IDS:
        put(store, id)
    assert store.pack() == len(WEIRD_IDS)
    assert not list((store.path / "videos").iterdir())
    for reader in (store, FeatureStore.open(store.path)):
        assert reader.ids() == sorted(WEIRD_IDS)
        for id in WEIRD_IDS:
            check(reader, id)
        assert list(reader.verify()) == []


def test_files_are_safetensors_in_both_directions(store: FeatureStore, tmp_path: Path) -> None:
    put(store, "a/b.mp4")
    put(store, "c.mp4")
    paths = list((store.path / "videos").iterdir())
    store.pack()
    paths = [path for path in paths if path.exists()] + list((store.path / "shards").iterdir())
    (shard,) = paths
    with safe_open(shard, framework="numpy") as handle:
        assert json.loads(handle.metadata()["records"])[0]["id"] == "a/b.mp4"
        for name in handle.keys():  # noqa: SIM118 - no mapping
            id, array = name.rsplit("/", 1)
            assert np.array_equal(handle.get_tensor(name), store.read(id)[array])
    theirs = tmp_path / "theirs.safetensors"
    save_file({"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, theirs, {"k": "v"})
    header = read_header(theirs)
    assert header.metadata == {"k": "v"}
    assert header.array("x", header.map()).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_arrays_are_mapped_aligned_and_read_only(store: FeatureStore) -> None:
    for id in ("a", "bb", "ccc"):
        put(store, id)
    store.pack()
    for id in store.ids():
        for array in store.read(id).arrays.values():
            assert array.flags.aligned and not array.flags.writeable and not array.flags.owndata


def test_equal_features_give_equal_files_whatever_the_chunks(tmp_path: Path) -> None:
    stores = []
    for number, chunk in enumerate((1, 50)):
        store = FeatureStore.create(tmp_path / str(number), SPEC)
        ids = [f"v{i}" for i in range(6)]
        for id in ids if number else reversed(ids):
            put(store, id, chunk=chunk)
        stores.append(store)
    assert files(stores[0].path) == files(stores[1].path)
    for store in stores:
        store.pack()
    assert files(stores[0].path) == files(stores[1].path)


def test_nothing_is_there_before_finish_nor_after_an_error(store: FeatureStore) -> None:
    with pytest.raises(RuntimeError, match="decoder"), store.writer("a") as writer:
        writer.append(rows("a", 3))
        assert "a" not in store
        raise RuntimeError("decoder")
    assert store.ids() == []
    assert {path.name for path in store.path.rglob("*")} <= {"store.json", "videos", "locks"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made.pop("audio"), "rows hold"),
        (lambda made: made.update(extra=made["audio"]), "rows hold"),
        (lambda made: made.update(audio=made["audio"][:2]), "shape"),
        (lambda made: made.update(audio=made["audio"][:, :1]), "shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(store: FeatureStore, change, message: str) -> None:
    made = rows("a", 3)
    change(made)
    with store.writer("a") as writer, pytest.raises(ValueError, match=message):
        writer.append(made)


def test_a_summary_of_other_steps_is_refused(store: FeatureStore) -> None:
    with store.writer("a") as writer:
        writer.append(rows("a", 3))
        with pytest.raises(ValueError, match="3 steps were appended, the summary has 4"):
            writer.finish(summary(4))
    assert "a" not in store


@pytest.mark.parametrize("id", ["", "\udcff.mp4"])
def test_what_is_no_text_is_no_id(store: FeatureStore, id: str) -> None:
    with pytest.raises(UsageError):
        store.writer(id)


def test_another_backbone_is_refused_by_name(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match=r"backbone 'toy-frame'.*use another folder"):
        FeatureStore.create(store.path, OTHER_SPEC)
    with pytest.raises(StoreError, match=OTHER_SPEC.digest):
        FeatureStore.open(store.path, digest=OTHER_SPEC.digest)
    assert FeatureStore.open(store.path).spec == SPEC


def test_a_file_of_another_backbone_is_not_taken_in(store: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore.create(tmp_path / "other", OTHER_SPEC)
    put(other, "a")
    other.loose_path("a").rename(store.path / "stray.safetensors")
    (store.path / "videos").mkdir()
    (store.path / "stray.safetensors").rename(store.loose_path("a"))
    assert "a" not in store
    (damage,) = store.verify()
    assert "another backbone" in damage.reason


def test_folders_that_are_no_store_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no feature store"):
        FeatureStore.open(tmp_path)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="holds files but no feature store"):
        FeatureStore.create(tmp_path, SPEC)
    with pytest.raises(StoreError, match="is a file"):
        FeatureStore.create(tmp_path / "thesis.tex", SPEC)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 99, "format version 99"),
        ("digest", "0" * 16, "digest is not that of its backbone"),
        ("format", "zip", "something else"),
        ("backbone", {}, "damaged"),
    ],
)
def test_a_changed_description_is_refused(
    store: FeatureStore, key: str, value: object, message: str
) -> None:
    file = store.path / "store.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(StoreError, match=message):
        FeatureStore.open(store.path)


def test_a_video_that_is_not_there_is_an_error_with_a_way_out(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match=r"no features of 'x'.*pipeline extract"):
        store.read("x")
    assert store.get("x") is None


def test_the_newest_revision_counts_wherever_it_lies(store: FeatureStore) -> None:
    put(store, "a")
    put(store, "b")
    store.pack()
    put(store, "a", revision=1)
    assert store.record("a").revision == 1
    for step in (lambda: None, store.pack, store.rebuild_index, store.pack):
        step()
        for reader in (store, FeatureStore.open(store.path)):
            check(reader, "a", revision=1)
            check(reader, "b")
            assert reader.ids() == ["a", "b"]
    put(store, "a", revision=2)
    put(store, "a", revision=3)
    store.pack()
    check(store, "a", revision=3)
    assert store.record("a").revision == 3


def test_the_index_is_made_again_when_it_is_missing_or_damaged(store: FeatureStore) -> None:
    ids = [f"video {i}" for i in range(20)]
    for id in ids:
        put(store, id)
    store.pack()
    index = store.path / "index.sqlite"
    whole = index.read_bytes()
    for damage in (None, b"", b"no database", whole[:100], whole[:-4096], b"\0" * len(whole)):
        index.unlink()
        if damage is not None:
            index.write_bytes(damage)
        fresh = FeatureStore.open(store.path)
        assert fresh.ids() == sorted(ids)
        for id in ids:
            check(fresh, id)


def test_readers_see_what_other_objects_pack(store: FeatureStore) -> None:
    reader = FeatureStore.open(store.path)
    assert reader.ids() == []
    for number in range(5):
        put(store, f"v{number}")
        if number % 2:
            store.pack()
        assert reader.ids() == [f"v{i}" for i in range(number + 1)]
        check(reader, "v0")


def test_a_store_that_may_only_be_read_is_read(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a")
    store.pack()
    (store.path / "index.sqlite").unlink()

    def refuse(path: Path, *_: object) -> None:
        if path.parent == store.path:
            raise PermissionError("read-only")
        original(path, *_)

    reader = FeatureStore.open(store.path)
    original = reader.index._write_at
    monkeypatch.setattr(reader.index, "_write_at", refuse)
    check(reader, "a")
    assert not (store.path / "index.sqlite").exists()


def test_shards_are_cut_by_size_and_number(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"video {i:03}" for i in range(30)]
    for id in ids:
        put(store, id)
    size = store.loose_path(ids[0]).stat().st_size
    monkeypatch.setattr(packing, "SHARD_BYTES", 5 * size)
    monkeypatch.setattr(packing, "SHARD_VIDEOS", 4)
    store.pack()
    assert len(list((store.path / "shards").iterdir())) == 8
    for id in ids:
        check(store, id)


def test_few_small_files_are_left_alone(store: FeatureStore) -> None:
    put(store, "a")
    assert store.pack(min_videos=2) == 0
    put(store, "b")
    assert store.pack(min_videos=2) == 2


def test_many_files_are_packed_with_few_descriptors(store: FeatureStore) -> None:
    code = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from extractors.storage.store import FeatureStore\n"
        "store = FeatureStore.open(sys.argv[1])\nprint(store.pack())"
    )
    for number in range(150):
        put(store, f"v{number}")
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "150", done.stderr


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_every_flipped_bit_of_a_small_file_is_found(store: FeatureStore) -> None:
    put(store, "a")
    path = store.loose_path("a")
    size = path.stat().st_size
    whole = path.read_bytes()
    for place in [*range(16), *range(16, size, 37), size - 1]:
        flip(path, place)
        # White space around the header may change without harm; then the video is whole.
        found = list(store.verify())
        if not found:
            check(store, "a")
        else:
            assert found[0].path == path
        path.write_bytes(whole)
    assert list(store.verify()) == []


def test_a_damaged_video_is_named_removed_and_the_others_stay(store: FeatureStore) -> None:
    ids = [f"v{i}" for i in range(6)]
    for id in ids:
        put(store, id)
    store.pack()
    put(store, "loose 1")
    put(store, "loose 2")
    (shard,) = (store.path / "shards").iterdir()
    place = read_header(shard).place("v3/audio")
    flip(shard, place.begin + 1)
    flip(store.loose_path("loose 2"), store.loose_path("loose 2").stat().st_size - 1)
    damaged = list(store.verify())
    assert [damage.ids for damage in damaged] == [("v3",), ("loose 2",)]
    assert store.repair() == ["loose 2", "v3"]
    assert list(store.verify()) == []
    kept = ["loose 1", "v0", "v1", "v2", "v4", "v5"]
    assert store.ids() == kept
    for id in kept:
        check(store, id)
    put(store, "v3")
    check(store, "v3")


@pytest.mark.parametrize("length", [0, 5, 300, -10])
def test_a_shortened_shard_is_missed_at_once_and_repaired(store: FeatureStore, length: int) -> None:
    for id in ("a", "b"):
        put(store, id)
    store.pack()
    (shard,) = (store.path / "shards").iterdir()
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:length])
    fresh = FeatureStore.open(store.path)
    assert fresh.ids() == []  # so extraction does them again
    (damage,) = fresh.verify()
    assert damage.path == shard
    put(fresh, "a")
    fresh.pack()
    check(fresh, "a")
    fresh.repair()
    assert list(fresh.verify()) == []
    assert FeatureStore.open(store.path).ids() == ["a"]


def test_a_damaged_small_file_counts_as_missing_and_is_replaced(store: FeatureStore) -> None:
    put(store, "a")
    path = store.loose_path("a")
    path.write_bytes(path.read_bytes()[:-1])
    assert "a" not in store and store.ids() == []
    with pytest.raises(StoreError):
        store.read("a")
    put(store, "a")
    check(store, "a")


def test_damage_is_not_packed(store: FeatureStore) -> None:
    put(store, "a")
    put(store, "b")
    flip(store.loose_path("a"), store.loose_path("a").stat().st_size - 1)
    assert store.pack() == 1
    assert [damage.ids for damage in store.verify()] == [("a",)]
    check(store, "b")


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\2" + b"\0" * 7 + b"[]", b"\2" + b"\0" * 9])
def test_other_bytes_are_no_feature_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatFault):
        read_header(path)


def test_a_store_travels_to_other_threads_and_processes(store: FeatureStore) -> None:
    put(store, "a")
    store.pack()
    check(pickle.loads(pickle.dumps(store)), "a")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                check(store, "a")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    context = multiprocessing.get_context("fork")
    child = context.Process(target=check, args=(store, "a"))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_a_claim_is_held_by_one_thread_of_one_process(store: FeatureStore) -> None:
    script = (
        "import sys\nfrom extractors.storage.store import FeatureStore\n"
        "with FeatureStore.open(sys.argv[1]).claim('a') as mine:\n"
        "    print(mine, flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(store.path)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **options) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "True\n"
        with store.claim("a") as mine, store.claim("b") as other:
            assert (mine, other) == (False, True)
        child.kill()
    with store.claim("a") as mine, store.claim("a") as again:
        assert mine and again
        seen = []
        thread = threading.Thread(target=lambda: seen.append(store.claim("a").__enter__()))
        thread.start()
        thread.join()
        assert seen == [False]
    with store.claim("a") as mine:
        assert mine


def write_some(path: Path, ids: list[str], pack_every: int) -> None:
    """What a child process does; killed at any moment."""
    store = FeatureStore.create(path, SPEC)
    for number, id in enumerate(ids):
        if id not in store:
            put(store, id)
        if pack_every and number % pack_every == pack_every - 1:
            store.pack()
    store.pack()


def test_two_processes_on_one_store_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ids = [f"v{i}" for i in range(60)]
    for _ in range(2):
        children = [
            context.Process(target=write_some, args=(tmp_path / "store", part, 7))
            for part in (ids, ids[::-1], ids[20:40])
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
    store = FeatureStore.open(tmp_path / "store")
    assert store.ids() == sorted(ids)
    for id in ids:
        check(store, id)
    assert list(store.verify()) == []


def die_at(operation: int) -> None:
    """Let this process be killed at its n-th operation on the disk, before or after it."""
    count = [0]

    def counted(function):
        def call(*arguments, **options):
            count[0] += 1
            if count[0] == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            count[0] += 1
            if count[0] == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    Path.mkdir = counted(Path.mkdir)  # type: ignore[method-assign]


def write_and_die(path: Path, ids: list[str], operation: int) -> None:
    die_at(operation)
    write_some(path, ids, 0)


def test_killed_at_each_operation_on_the_disk_it_ends_as_if_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_VIDEOS", 2)
    context = multiprocessing.get_context("fork")
    ids = ["c", "a", "b"]
    undisturbed = tmp_path / "undisturbed"
    write_some(undisturbed, ids, 0)
    operation, killed = 1, True
    while killed:
        path = tmp_path / str(operation)
        child = context.Process(target=write_and_die, args=(path, ids, operation))
        child.start()
        child.join()
        killed = child.exitcode == -signal.SIGKILL
        assert killed or child.exitcode == 0
        write_some(path, ids, 0)
        assert files(path) == files(undisturbed), operation
        assert FeatureStore.open(path).ids() == sorted(ids)
        operation += 1
    assert operation > 50


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_again_and_again_it_ends_as_if_never_killed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_VIDEOS", 16)
    context = multiprocessing.get_context("fork")
    ids = [f"v{i}" for i in range(60)]
    undisturbed, path = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.perf_counter()
    write_some(undisturbed, ids, 0)
    usual = time.perf_counter() - started
    clock = random.Random(seed)
    for _ in range(10):
        child = context.Process(target=write_some, args=(path, ids, 0))
        child.start()
        child.join(clock.uniform(0, usual / 2))
        child.kill()
        child.join()
    write_some(path, ids, 0)
    assert files(path) == files(undisturbed)
    assert FeatureStore.open(path).ids() == sorted(ids)


def test_leftovers_of_killed_writers_go_after_an_hour(store: FeatureStore) -> None:
    (store.path / "videos").mkdir()
    old, new = store.path / "videos" / ".1.a.part", store.path / "videos" / ".2.b.part"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 4000,) * 2)
    FeatureStore.create(store.path, SPEC)
    assert not old.exists() and new.exists()


def test_a_fingerprint_sees_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    data = bytearray(random.Random(0).randbytes(3_000_000))
    path.write_bytes(data)
    source = fingerprint(path)
    assert source.matches(path) and Source.from_json(source.to_json()) == source
    os.utime(path, (1, 1))
    assert source.matches(path)  # copied: the same bytes at another time
    for place in (0, 2_999_999, 1_500_000 // 65536 * 65536):
        changed = bytearray(data)
        changed[place : place + 200_000] = b"\0" * len(changed[place : place + 200_000])
        path.write_bytes(changed)
        assert not source.matches(path), place
    path.write_bytes(data + b"x")
    assert not source.matches(path)
    path.unlink()
    with pytest.raises(MediaError, match="does not exist"):
        source.matches(path)


def test_the_size_of_a_row_is_what_it_takes_on_disk(store: FeatureStore) -> None:
    put(store, "abc")
    arrays = store.read("abc").arrays
    assert sum(a.nbytes for a in arrays.values()) == row_bytes(SPEC) * steps_of("abc")


def test_a_description_survives_the_store(tmp_path: Path) -> None:
    spec: BackboneSpec = toy(unit="window").spec
    FeatureStore.create(tmp_path / "s", spec)
    assert FeatureStore.open(tmp_path / "s").spec == spec
