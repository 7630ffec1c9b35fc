"""Feature files of the field: into a store, out again, and what is wrong with them by name."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.imported import imported_name, imported_spec, plain_grid
from extractors.layouts.exporting import export_features
from extractors.layouts.importing import ImportReport, import_features, with_widths
from extractors.layouts.table import LAYOUTS, Layout, find_layout, find_videos
from extractors.layouts.video import Lengths, Missing, VideoReader
from extractors.registry import backbone_names, backbone_spec, load_backbone
from extractors.released import NEAREST, RELEASED
from extractors.spec import BackboneSpec, WeightsFile
from extractors.storage.store import FeatureStore
from extractors.windows import WindowGrid
from pipeline.cli import main
from pipeline.core.errors import NothingMatchedError, StoreError, UsageError

PLAIN_DIMS = {"vision": 6, "audio": 5}
RELEASES = ("unav100-i3d-vggish", "unav100-onepeace", "activitynet13-onepeace")
# As released, from the description of the data sets: rate, window, stride, widths.
GRIDS = {
    "unav100-i3d-vggish": (25, 24, 8, 2048, 128),
    "unav100-onepeace": (16, 16, 4, 1536, 1536),
    "activitynet13-onepeace": (16, 16, 8, 1536, 1536),
}


def values(seed: int, steps: int, dim: int, dtype: str = "<f4") -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(steps, dim)).astype(dtype)


def fill(
    folder: Path, layout: Layout, videos: dict[str, tuple[int, int]], dtype: str = "<f4"
) -> dict[str, bytes]:
    """Write videos of (picture, sound) steps; returns the bytes of each file."""
    written = {}
    for number, (id, steps) in enumerate(videos.items()):
        files: dict[str, dict[str, NDArray[Any]]] = {}
        for place, part in enumerate(layout.parts):
            count = steps[part.modality == "audio"]
            dim = part.dim or PLAIN_DIMS[part.modality]
            if count:
                array = values(100 * number + place, count, dim, dtype)
                files.setdefault(part.path(id), {})[part.key] = array
        for name, arrays in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if "" in arrays:
                np.save(path, arrays[""])
            else:
                np.savez(path, **arrays)  # type: ignore[arg-type]
            written[name] = path.read_bytes()
    return written


def reader_of(
    folder: Path, layout: Layout, *, lengths: Lengths = "keep", missing: Missing = "error"
) -> VideoReader:
    found = find_videos(folder, layout)
    if layout.spec is not None:
        return VideoReader(found, layout.spec, lengths, missing)
    return VideoReader(*with_widths(found, "toy", WindowGrid()), lengths, missing)


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def failure(report: ImportReport, id: str) -> str:
    (row,) = [row for row in report.rows if row.id == id]
    assert row.outcome == "failed", row
    return "; ".join(row.reasons)


ONEPEACE = LAYOUTS["unav100-onepeace"]
I3D = LAYOUTS["unav100-i3d-vggish"]
NPY = LAYOUTS["npy"]


# There and back.


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_was_imported_comes_out_byte_for_byte(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    written = fill(tmp_path / "in", layout, {"-a_b": (7, 7), "c/d": (5, 6), "e": (9, 8)})
    reader = reader_of(tmp_path / "in", layout)
    report = import_features(reader, tmp_path / "store")
    assert report.counts == {"done": 3, "skipped": 0, "failed": 0}
    store = FeatureStore.open(tmp_path / "store")
    back = export_features(store, layout, tmp_path / "out")
    assert back.counts["done"] == 3
    assert back.notes == ()
    assert tree(tmp_path / "out") == written


def test_a_store_of_shards_is_exported_like_one_of_small_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractors.layouts.importing.PACK_VIDEOS", 3)
    written = fill(tmp_path / "in", NPY, {f"v{number}": (4, 4) for number in range(4)})
    import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    assert not store.loose_paths()
    export_features(store, NPY, tmp_path / "out")
    assert tree(tmp_path / "out") == written


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_other_types_are_stored_in_single_precision(dtype: str, tmp_path: Path) -> None:
    fill(tmp_path / "in", NPY, {"a": (6, 6)}, dtype)
    report = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    stored = FeatureStore.open(tmp_path / "store").read("a")["vision"]
    original = np.load(tmp_path / "in" / "vision" / "a.npy")
    np.testing.assert_array_equal(stored, original.astype(np.float32))
    rounded = dtype == "<f8"
    assert report.to_json()["rounded"] == int(rounded)
    assert ("1 videos in double precision" in report.format_table()) == rounded


def test_an_array_whose_columns_lie_together_is_the_same_array(tmp_path: Path) -> None:
    fill(tmp_path / "in", NPY, {"a": (6, 6)})
    array = values(1, 6, PLAIN_DIMS["vision"])
    np.save(tmp_path / "in" / "vision" / "a.npy", np.asfortranarray(array))
    import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    stored = FeatureStore.open(tmp_path / "store").read("a")["vision"]
    np.testing.assert_array_equal(stored, array)


def test_rgb_lies_before_flow(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (3, 3)})
    import_features(reader_of(tmp_path / "in", I3D), tmp_path / "store")
    stored = FeatureStore.open(tmp_path / "store").read("a")["vision"]
    np.testing.assert_array_equal(stored[:, :1024], np.load(tmp_path / "in" / "a_rgb.npy"))
    np.testing.assert_array_equal(stored[:, 1024:], np.load(tmp_path / "in" / "a_flow.npy"))


# Lengths.


def test_a_shorter_modality_is_kept_and_masked_at_its_end(tmp_path: Path) -> None:
    fill(tmp_path / "in", NPY, {"a": (7, 5), "b": (4, 4)})
    report = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    features = FeatureStore.open(tmp_path / "store").read("a")
    assert features["vision_mask"].tolist() == [True] * 7
    assert features["audio_mask"].tolist() == [True] * 5 + [False] * 2
    assert not features["audio"][5:].any()
    assert report.to_json()["length_differs"] == 1
    assert "of 1 videos differ in length, by up to 2 steps: kept" in report.format_table()


def test_cutting_to_the_shorter_gives_what_the_public_loader_gives(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (7, 5)})
    reader = reader_of(tmp_path / "in", I3D, lengths="shorter")
    report = import_features(reader, tmp_path / "store")
    features = FeatureStore.open(tmp_path / "store").read("a")
    rgb, flow, sound = (
        np.load(tmp_path / "in" / f"a_{name}.npy") for name in ("rgb", "flow", "vggish")
    )
    np.testing.assert_array_equal(features["vision"], np.hstack([rgb, flow])[:5])
    np.testing.assert_array_equal(features["audio"], sound[:5])
    assert features["vision_mask"].all()
    assert features["audio_mask"].all()
    assert "cut to the shorter" in report.format_table()


def test_the_duration_is_the_annotated_one_or_else_the_end_of_the_last_window(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "in", I3D, {"a": (29, 29), "b": (29, 29)})
    report = import_features(
        reader_of(tmp_path / "in", I3D), tmp_path / "store", durations={"a": 10.02}
    )
    store = FeatureStore.open(tmp_path / "store")
    assert store.summary("a").duration == 10.02
    # The last of 29 windows starts at frame 28 * 8 and ends 24 frames later, at 25 a second.
    assert store.summary("b").duration == pytest.approx((28 * 8 + 24) / 25)
    assert report.unknown == 1


def test_a_duration_in_whole_seconds_is_a_duration(tmp_path: Path) -> None:
    fill(tmp_path / "in", ONEPEACE, {"a": (37, 37)})
    import_features(reader_of(tmp_path / "in", ONEPEACE), tmp_path / "store", durations={"a": 10})
    store = FeatureStore.open(tmp_path / "store")
    assert list(store.verify()) == []
    assert store.summary("a").duration == 10.0


@pytest.mark.parametrize(
    ("name", "steps", "duration", "fits"),
    [
        ("unav100-onepeace", 37, 10.0, True),
        ("unav100-onepeace", 33, 10.0, True),  # four steps are the second that is allowed
        ("unav100-onepeace", 32, 10.0, False),
        ("unav100-onepeace", 42, 10.0, False),
        ("unav100-i3d-vggish", 185, 60.0, True),
        ("unav100-i3d-vggish", 63, 60.0, False),  # sound at the default hop of 0.96 s
        ("activitynet13-onepeace", 19, 10.0, True),
        ("activitynet13-onepeace", 15, 10.0, True),  # two seconds
        ("activitynet13-onepeace", 14, 10.0, False),
    ],
)
def test_a_length_may_miss_the_duration_by_the_slack_of_its_layout(
    name: str, steps: int, duration: float, fits: bool, tmp_path: Path
) -> None:
    fill(tmp_path, LAYOUTS[name], {"a": (steps, steps)})
    faults = reader_of(tmp_path, LAYOUTS[name]).faults("a", duration)
    assert [fault.kind for fault in faults] == ([] if fits else ["length", "length"])
    if not fits:
        assert f"vision has {steps} steps, {duration:g} s give" in str(faults[0])


def test_picture_and_sound_far_apart_are_refused_even_without_a_duration(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (57, 19)})
    report = import_features(reader_of(tmp_path / "in", I3D), tmp_path / "store")
    assert "vision has 57 steps and audio 19; they may differ by 3" in failure(report, "a")


def test_rgb_and_flow_must_have_the_same_length(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (7, 7)})
    np.save(tmp_path / "in" / "a_flow.npy", values(0, 6, 1024))
    report = import_features(reader_of(tmp_path / "in", I3D), tmp_path / "store")
    assert "{id}_rgb.npy has 7, {id}_flow.npy has 6" in failure(report, "a")
    cut = import_features(reader_of(tmp_path / "in", I3D, lengths="shorter"), tmp_path / "store")
    assert cut.counts["done"] == 1
    assert FeatureStore.open(tmp_path / "store").summary("a").steps == 6


# Files that cannot be used.


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_bytes(data: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_bytes(data)

    return put


def put_array(array: NDArray[Any], **options: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, **options)


def put_header(shape: tuple[int, ...], descr: str = "<f4") -> Callable[[Path], None]:
    def put(path: Path) -> None:
        with path.open("wb") as handle:
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(handle, header)
            handle.write(bytes(64))

    return put


def spoiled(value: float, dtype: str = "<f4") -> NDArray[Any]:
    array = values(3, 7, 1536, dtype)
    array[4, 2] = value
    return array


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "the vision file is missing"),
    "empty": (put_bytes(b""), "is empty"),
    "text": (put_bytes(b"<html>not found</html>"), "is no npy array"),
    "archive": (put_bytes(b"PK\x03\x04" + bytes(100)), "is no npy array"),
    "header cut": (put_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr'"), "header is damaged"),
    "header nested": (
        put_bytes(b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000),
        "header is damaged",
    ),
    "version": (put_bytes(b"\x93NUMPY\x07\x00" + bytes(100)), "npy format version (7, 0)"),
    "cut off": (put_header((7, 1536)), "bytes instead of the"),
    "says too much": (put_header((10**9, 1536)), "more than 8,589,934,592 are not read"),
    "negative": (put_header((-7, 1536)), "there is nothing in it"),
    "no steps": (put_array(np.zeros((0, 1536), np.float32)), "there is nothing in it"),
    "one axis": (put_array(np.zeros(1536, np.float32)), "has the shape (1536,)"),
    "three axes": (put_array(np.zeros((1, 7, 1536), np.float32)), "not (steps, values)"),
    "narrow": (put_array(values(0, 7, 1024)), "has the shape (7, 1024), not (steps, 1536)"),
    "turned": (put_array(values(0, 1536, 7)), "it lies the other way round"),
    "integers": (put_array(np.ones((7, 1536), np.int64)), "holds int64, not 16, 32 or 64 bit"),
    "complex": (put_array(np.ones((7, 1536), np.complex64)), "holds complex64"),
    "fields": (put_array(np.zeros(7, [("a", "<f4")])), "not 16, 32 or 64 bit floating point"),
    "NaN": (put_array(spoiled(np.nan)), "1 of 10752 values are NaN, the first in step 4"),
    "infinite": (put_array(spoiled(-np.inf)), "values are infinite, the first in step 4"),
    "too large": (put_array(spoiled(1e300, "<f8")), "1e+300 is too large for single precision"),
    "folder": (put_folder, "the vision file is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_its_neighbour_is_imported(case: str, tmp_path: Path) -> None:
    spoil, said = BAD[case]
    fill(tmp_path / "in", ONEPEACE, {"bad": (7, 7), "good": (7, 7)})
    spoil(tmp_path / "in" / "bad_one_peace_video_finetune.npy")
    report = import_features(reader_of(tmp_path / "in", ONEPEACE), tmp_path / "store")
    reason = failure(report, "bad")
    assert said in reason
    assert "bad_one_peace_video_finetune.npy: " in reason
    assert report.counts == {"done": 1, "skipped": 0, "failed": 1}
    assert report.exit_code == 1
    assert f"failed  bad: {reason}" in report.format_table()
    store = FeatureStore.open(tmp_path / "store")
    assert store.ids() == ["good"]
    assert store.ledger.latest()["bad"].outcome == "failed"


def test_all_files_of_a_video_are_named_at_once(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (7, 7)})
    (tmp_path / "in" / "a_rgb.npy").write_bytes(b"")
    np.save(tmp_path / "in" / "a_vggish.npy", values(0, 7, 64))
    report = import_features(reader_of(tmp_path / "in", I3D), tmp_path / "store")
    assert report.rows[0].reasons == (
        "a_rgb.npy: is empty",
        "a_vggish.npy: has the shape (7, 64), not (steps, 128)",
    )


class Planter:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    fill(tmp_path / "in", ONEPEACE, {"a": (7, 7), "b": (7, 7)})
    trap = tmp_path / "trap"
    objects = np.array([Planter(trap)] * 7, dtype=object)
    np.save(tmp_path / "in" / "a_one_peace_audio.npy", objects, allow_pickle=True)
    (tmp_path / "in" / "b_one_peace_audio.npy").write_bytes(pickle.dumps(Planter(trap)))
    report = import_features(reader_of(tmp_path / "in", ONEPEACE), tmp_path / "store")
    assert "holds Python objects" in failure(report, "a")
    assert "is no npy array" in failure(report, "b")
    assert not trap.exists()


def test_an_npz_file_says_which_arrays_it_has(tmp_path: Path) -> None:
    layout = LAYOUTS["npz"]
    fill(tmp_path / "in", layout, {"good": (4, 4)})
    np.savez(tmp_path / "in" / "wrong.npz", rgb=values(0, 4, 6), audio=values(1, 4, 5))
    (tmp_path / "in" / "text.npz").write_text("no archive")
    whole = (tmp_path / "in" / "good.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 0xFF  # inside the first array: its checksum disagrees
    (tmp_path / "in" / "damaged.npz").write_bytes(damaged)
    (tmp_path / "in" / "cut.npz").write_bytes(whole[:-30])
    report = import_features(reader_of(tmp_path / "in", layout), tmp_path / "store")
    assert "wrong.npz:vision: holds no array 'vision', but rgb, audio" in failure(report, "wrong")
    for id in ("text", "damaged", "cut"):
        assert "is no sound npz file" in failure(report, id)
    assert report.counts["done"] == 1


def test_an_archive_that_unpacks_to_more_than_its_array_is_not_unpacked(tmp_path: Path) -> None:
    fill(tmp_path / "in", LAYOUTS["npz"], {"good": (4, 4)})
    with zipfile.ZipFile(tmp_path / "in" / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("vision", "audio"):
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": (10_000, 6)}
                np.lib.format.write_array_header_1_0(member, header)
                member.write(bytes(1 << 20))
    report = import_features(reader_of(tmp_path / "in", LAYOUTS["npz"]), tmp_path / "store")
    assert "bytes instead of the" in failure(report, "a")


# A modality that is missing.


def test_a_missing_modality_may_be_masked_when_asked(tmp_path: Path) -> None:
    written = fill(tmp_path / "in", I3D, {"deaf": (6, 0), "blind": (0, 6), "both": (6, 6)})
    strict = import_features(reader_of(tmp_path / "in", I3D), tmp_path / "strict")
    assert strict.counts == {"done": 1, "skipped": 0, "failed": 2}
    assert failure(strict, "deaf") == "deaf_vggish.npy: the audio file is missing"
    report = import_features(reader_of(tmp_path / "in", I3D, missing="mask"), tmp_path / "store")
    assert report.counts["done"] == 3
    assert report.to_json()["without"] == {"audio": 1, "vision": 1}
    store = FeatureStore.open(tmp_path / "store")
    features = store.read("deaf")
    assert features["vision_mask"].all()
    assert not features["audio_mask"].any()
    assert not features["audio"].any()
    assert list(features.summary.coverage) == ["vision"]
    export_features(store, I3D, tmp_path / "out")
    assert tree(tmp_path / "out") == written


def test_half_a_modality_is_never_masked(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (6, 6)})
    (tmp_path / "in" / "a_flow.npy").unlink()
    report = import_features(reader_of(tmp_path / "in", I3D, missing="mask"), tmp_path / "store")
    assert failure(report, "a") == "a_flow.npy: the vision file is missing"


# Names.


@pytest.mark.parametrize(
    "id",
    ["-dash", "_line", "a_rgb", "x_flow", "dots.in.it", "with space", "Zürich", "day 1/take.mp4"],
)
def test_odd_ids_are_kept_as_they_are(id: str, tmp_path: Path) -> None:
    fill(tmp_path, I3D, {id: (3, 3)})
    assert list(find_videos(tmp_path, I3D).videos) == [id]


def test_files_that_are_no_features_are_counted_and_hidden_ones_passed_over(
    tmp_path: Path,
) -> None:
    fill(tmp_path, I3D, {"a": (3, 3)})
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "._a_rgb.npy").write_bytes(b"resource fork")
    found = find_videos(tmp_path, I3D)
    assert list(found.videos) == ["a"]
    assert found.others == ("README.txt",)


def test_a_name_that_leaves_nothing_for_the_id_fails(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (3, 3)})
    np.save(tmp_path / "in" / "_rgb.npy", values(0, 3, 1024))
    report = import_features(reader_of(tmp_path / "in", I3D), tmp_path / "store")
    assert failure(report, "_rgb.npy") == "its name has nothing for the id"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_fails_and_can_be_printed(tmp_path: Path) -> None:
    fill(tmp_path / "in", I3D, {"a": (3, 3)})
    os.link(tmp_path / "in" / "a_rgb.npy", os.fsencode(tmp_path / "in") + b"/\xff_rgb.npy")
    report = import_features(reader_of(tmp_path / "in", I3D), tmp_path / "store")
    assert failure(report, r"\xff_rgb.npy") == "its name is no valid text"
    report.format_table().encode()


def test_the_pattern_that_says_more_of_a_name_wins(tmp_path: Path) -> None:
    layout = find_layout("npy", vision=["{id}.npy"], audio=["{id}_sound.npy"])
    fill(tmp_path, layout, {"a": (3, 3)})
    assert list(find_videos(tmp_path, layout).videos) == ["a"]


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    fill(tmp_path, NPY, {"a": (3, 3)})
    (tmp_path / "vision" / "again").symlink_to(tmp_path)
    assert list(find_videos(tmp_path, NPY).videos) == ["a"]


def test_a_folder_without_such_files_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(NothingMatchedError, match=r"\{id\}_rgb\.npy, \{id\}_flow\.npy"):
        find_videos(tmp_path, I3D)
    with pytest.raises(NothingMatchedError, match="is no folder"):
        find_videos(tmp_path / "nowhere", I3D)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "unav100-onepiece"}, "did you mean 'unav100-onepeace'"),
        ({"vision": ["rgb.npy"]}, "is no place of feature files"),
        ({"vision": ["../{id}.npy"]}, "is no place of feature files"),
        ({"vision": ["/data/{id}.npy"]}, "is no place of feature files"),
        ({"vision": ["{id}.npz"]}, "names no array"),
        ({"vision": ["{id}.npy:rgb"]}, "names no array"),
        ({"vision": ["{id}.pt"]}, "names no array"),
        ({"vision": ["{id}.npy"], "audio": ["{id}.npy"]}, "two arrays lie at '{id}.npy'"),
        ({"name": "unav100-i3d-vggish", "vision": ["{id}.npy"]}, "has 2 vision arrays"),
        ({"slack": -1.0}, "a length slack of -1 s is impossible"),
        ({"slack": float("nan")}, "a length slack of nan s is impossible"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_layout(**{"name": "npy", **options})
    assert said in str(caught.value)


def test_a_release_may_lie_in_other_folders(tmp_path: Path) -> None:
    layout = find_layout("unav100-onepeace", vision=["av/{id}_v.npy"], audio=["a/{id}_a.npy"])
    written = fill(tmp_path / "in", layout, {"x": (5, 5)})
    report = import_features(reader_of(tmp_path / "in", layout), tmp_path / "store")
    assert report.backbone == "unav100-onepeace"
    export_features(FeatureStore.open(tmp_path / "store"), layout, tmp_path / "out")
    assert tree(tmp_path / "out") == written


# Going on.


def test_a_second_import_skips_what_is_there_and_takes_what_changed(tmp_path: Path) -> None:
    fill(tmp_path / "in", NPY, {"a": (5, 5), "b": (5, 5), "c": (5, 0)})
    first = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    assert first.counts == {"done": 2, "skipped": 0, "failed": 1}
    np.save(tmp_path / "in" / "audio" / "c.npy", values(8, 5, 5))
    np.save(tmp_path / "in" / "audio" / "b.npy", values(9, 6, 5))
    again = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    outcomes = {row.id: row.outcome for row in again.rows}
    assert outcomes == {"a": "skipped", "b": "done", "c": "done"}
    store = FeatureStore.open(tmp_path / "store")
    assert store.record("b").revision == 1
    assert store.summary("b").steps == 6
    whole = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store", overwrite=True)
    assert whole.counts["done"] == 3


def test_touched_files_of_the_same_content_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path / "in", NPY, {"a": (5, 5)})
    import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    os.utime(tmp_path / "in" / "vision" / "a.npy", (1, 1))
    os.utime(tmp_path / "in" / "audio" / "a.npy", (1, 1))
    again = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    assert again.counts["skipped"] == 1


def test_a_run_that_was_broken_off_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractors.layouts.importing.PACK_EVERY", 4)
    monkeypatch.setattr("extractors.layouts.importing.PACK_VIDEOS", 1)
    fill(tmp_path / "in", NPY, {f"v{number:02d}": (4, 4) for number in range(12)})
    import_features(reader_of(tmp_path / "in", NPY), tmp_path / "whole")

    for stop in (3, 4, 9):
        seen: list[int] = []

        def count(seen: list[int] = seen, stop: int = stop) -> None:
            seen.append(1)
            if len(seen) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_features(reader_of(tmp_path / "in", NPY), tmp_path / "broken", progress=count)
    import_features(reader_of(tmp_path / "in", NPY), tmp_path / "broken")
    assert tree(tmp_path / "broken" / "shards") == tree(tmp_path / "whole" / "shards")
    assert len(FeatureStore.open(tmp_path / "broken")) == 12


def test_a_store_of_other_features_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "unav", ONEPEACE, {"a": (5, 5)})
    import_features(reader_of(tmp_path / "unav", ONEPEACE), tmp_path / "store")
    activitynet = LAYOUTS["activitynet13-onepeace"]
    with pytest.raises(StoreError, match="made by the backbone 'unav100-onepeace'"):
        import_features(reader_of(tmp_path / "unav", activitynet), tmp_path / "store")


# Exporting.


def plant_own(folder: Path, name: str = "own", **changes: Any) -> FeatureStore:
    """A store as extraction would leave it, in the widths of ONE-PEACE."""
    released = RELEASED["unav100-onepeace"]
    spec = BackboneSpec(name, changes.get("grid", released.grid), released.vision, released.audio)
    return FeatureStore.create(folder, spec)


def add(store: FeatureStore, id: str, vision: list[bool], audio: list[bool]) -> None:
    from extractors.features import Summary

    steps = len(vision)
    rows: dict[str, NDArray[Any]] = {
        "vision": values(1, steps, 1536) * np.array(vision)[:, None],
        "audio": values(2, steps, 1536) * np.array(audio)[:, None],
        "vision_mask": np.array(vision),
        "audio_mask": np.array(audio),
    }
    with store.writer(id) as writer:
        writer.append(rows)
        writer.finish(Summary(steps / 4, steps, {}, {}, "done"))


def test_own_features_in_a_released_layout_are_said_to_be_no_released_ones(
    tmp_path: Path,
) -> None:
    store = plant_own(tmp_path / "store")
    add(store, "a", [True] * 4, [True] * 4)
    report = export_features(store, ONEPEACE, tmp_path / "out")
    assert "they are not the released ones" in report.format_table()
    assert report.exit_code == 0


def test_masked_steps_are_cut_at_the_end_and_zeros_before_it(tmp_path: Path) -> None:
    store = plant_own(tmp_path / "store")
    add(store, "a", [False, True, True, False], [True] * 4)
    report = export_features(store, ONEPEACE, tmp_path / "out")
    array = np.load(tmp_path / "out" / "a_one_peace_video_finetune.npy")
    assert array.shape == (3, 1536)
    assert not array[0].any()
    assert "1 steps without features" in report.format_table()


def test_a_video_without_any_features_is_a_failure(tmp_path: Path) -> None:
    store = plant_own(tmp_path / "store")
    add(store, "a", [False] * 2, [False] * 2)
    report = export_features(store, ONEPEACE, tmp_path / "out")
    assert report.rows[0].reason == "it has no features: both modalities are masked"
    assert report.exit_code == 1


@pytest.mark.parametrize("id", ["../out", "/tmp/out", "a/../../b", "a\\b", "x" * 300])
def test_an_id_that_is_no_place_below_the_folder_is_not_written(id: str, tmp_path: Path) -> None:
    store = plant_own(tmp_path / "store")
    add(store, id, [True], [True])
    add(store, "good", [True], [True])
    (tmp_path / "out").mkdir()
    before = {path for path in tmp_path.rglob("*") if tmp_path / "out" not in path.parents}
    report = export_features(store, ONEPEACE, tmp_path / "out")
    assert {row.id: row.outcome for row in report.rows} == {id: "failed", "good": "done"}
    after = {path for path in tmp_path.rglob("*") if tmp_path / "out" not in path.parents}
    assert after == before
    assert len(tree(tmp_path / "out")) == 2


def test_files_that_are_there_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    store = plant_own(tmp_path / "store")
    add(store, "a", [True] * 3, [True] * 3)
    export_features(store, ONEPEACE, tmp_path / "out")
    assert export_features(store, ONEPEACE, tmp_path / "out").counts["skipped"] == 1
    victim = tmp_path / "out" / "a_one_peace_audio.npy"
    victim.write_bytes(b"mine")
    report = export_features(store, ONEPEACE, tmp_path / "out")
    assert "is there and differs (--overwrite replaces it)" in report.rows[0].reason
    assert victim.read_bytes() == b"mine"
    assert export_features(store, ONEPEACE, tmp_path / "out", overwrite=True).exit_code == 0
    assert np.load(victim).shape == (3, 1536)


def test_a_layout_of_another_grid_or_width_is_refused(tmp_path: Path) -> None:
    store = plant_own(tmp_path / "store", grid=WindowGrid(stride=8))
    with pytest.raises(UsageError, match="stride 4; the store has 16, 16, 8"):
        export_features(store, ONEPEACE, tmp_path / "out")
    with pytest.raises(UsageError, match=r"vision arrays of width \? \+ \?"):
        two = find_layout("npy", vision=["r/{id}.npy", "f/{id}.npy"])
        export_features(store, two, tmp_path / "out")
    unav = FeatureStore.create(tmp_path / "unav", backbone_spec("unav-i3d-rgb-vggish"))
    with pytest.raises(UsageError, match=r"1024 \+ 1024, the features of the store have 1024"):
        export_features(unav, I3D, tmp_path / "out")


# What the features are called.


@pytest.mark.parametrize("name", RELEASES)
def test_released_features_have_the_published_grid_and_widths(name: str) -> None:
    spec = backbone_spec(name)
    grid = spec.grid
    assert (grid.fps, grid.window, grid.stride, spec.vision.dim, spec.audio.dim) == GRIDS[name]
    assert BackboneSpec.from_json(spec.to_json()) == spec


def test_released_features_are_never_taken_for_own_ones() -> None:
    own = {backbone_spec(name).digest for name in backbone_names()}
    released = {spec.digest for spec in RELEASED.values()}
    assert len(released) == len(RELEASED)
    assert not own & released
    assert not set(RELEASED) & set(backbone_names())
    assert set(NEAREST) == set(RELEASED)
    assert set(NEAREST.values()) <= set(backbone_names())


def test_the_digests_of_released_features_never_change() -> None:
    """Stores and checkpoints that people have made carry them."""
    assert {name: spec.digest for name, spec in RELEASED.items()} == {
        "unav100-i3d-vggish": "532e5b48442062cf",
        "unav100-onepeace": "38dd6be6226dc222",
        "activitynet13-onepeace": "39ace9eab0bffa5f",
    }


@pytest.mark.parametrize("name", [*RELEASES, "imported:toy:6x5:16-16-4"])
def test_nothing_can_be_extracted_with_features_of_others(name: str) -> None:
    with pytest.raises(UsageError, match="no encoder here makes them") as caught:
        load_backbone(name, device="cpu")
    assert "import" in str(caught.value.hint)


def test_a_typing_mistake_in_a_released_name_is_answered_with_it() -> None:
    with pytest.raises(UsageError, match="did you mean 'unav100-onepeace'"):
        backbone_spec("unav100_onepeace")


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(30000, 1001), Fraction(1)])
def test_the_name_of_imported_features_says_all_that_they_are(fps: Fraction) -> None:
    grid = plain_grid(fps, 16, 4)
    name = imported_name("clip-clap_1.0", vision_dim=512, audio_dim=64, grid=grid)
    spec = backbone_spec(name)
    assert spec.name == name
    assert (spec.grid, spec.vision.dim, spec.audio.dim) == (grid, 512, 64)
    assert BackboneSpec.from_json(spec.to_json()) == spec
    other = imported_name("other", vision_dim=512, audio_dim=64, grid=grid)
    assert backbone_spec(other).digest != spec.digest


@pytest.mark.parametrize(
    "name", ["imported", "imported:a", "imported:a:0x5:16-16-4", "imported:a b:6x5:16-16-4"]
)
def test_a_damaged_name_of_imported_features_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="names no imported features"):
        imported_spec(name)


def test_a_weights_file_of_released_features_is_none() -> None:
    encoders = [e for spec in RELEASED.values() for e in (spec.vision, spec.audio)]
    assert all(isinstance(e.weights, WeightsFile) and e.weights.bytes == 0 for e in encoders)


# The command.


def test_the_command_imports_shows_and_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = fill(tmp_path / "in", ONEPEACE, {"a": (37, 36), "b": (37, 37)})
    labels = tmp_path / "labels.json"
    videos = {id: {"duration": 10.0, "subset": "train", "annotations": []} for id in "ac"}
    labels.write_text(json.dumps({"database": videos}))
    store = str(tmp_path / "store")
    words = ["--layout", "unav100-onepeace"]
    importing = ["features", "import", str(tmp_path / "in"), *words, "--out", store]
    assert main([*importing, "--annotations", str(labels)]) == 0
    said = capsys.readouterr().out
    assert "2 done" in said
    assert "1 videos are not annotated: their length was not checked" in said
    assert "backbone.name of a recipe is unav100-onepeace" in said
    assert main(["features", "show", store]) == 0
    said = capsys.readouterr().out
    assert "grid       16 fps, window 16, stride 4" in said
    assert "videos     2" in said
    assert main(["features", "show", store, "a"]) == 0
    assert "picture had 37 steps, sound 36" in capsys.readouterr().out
    assert main(["features", "show", store, "nobody"]) == 2
    exporting = ["features", "export", store, *words, "--out", str(tmp_path / "out")]
    assert main(exporting) == 0
    assert tree(tmp_path / "out") == written


def test_the_command_names_a_bad_file_and_exits_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "in", ONEPEACE, {"a": (5, 5), "b": (5, 0)})
    words = ["--layout", "unav100-onepeace", "--out", str(tmp_path / "store")]
    assert main(["features", "import", str(tmp_path / "in"), *words, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {"done": 1, "skipped": 0, "failed": 1}
    assert main(["features", "show", str(tmp_path / "store"), "--json"]) == 0
    (failed,) = json.loads(capsys.readouterr().out)["failed"]
    assert failed == {"id": "b", "reason": "b_one_peace_audio.npy: the audio file is missing"}


def test_damage_is_verified_and_repaired_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "in", NPY, {"a": (5, 5), "b": (5, 5)})
    import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    path = str(tmp_path / "store")
    assert main(["features", "verify", path]) == 0
    victim = store.loose_path("a")
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(data)
    assert main(["features", "verify", path]) == 1
    assert f"damaged  {victim} (a)" in capsys.readouterr().out
    assert main(["features", "repair", path]) == 1
    assert "1 videos are gone" in capsys.readouterr().out
    assert main(["features", "repair", path]) == 0
    assert main(["features", "verify", path, "--json"]) == 0
    again = import_features(reader_of(tmp_path / "in", NPY), tmp_path / "store")
    assert {row.id: row.outcome for row in again.rows} == {"a": "done", "b": "skipped"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layout", "npy"], "does not say when its steps are: --fps, --window, --stride missing"),
        (["--layout", "npy", "--fps", "16"], "--window, --stride missing"),
        (["--layout", "unav100-onepeace", "--fps", "16"], "has a grid of its own"),
        (
            ["--layout", "npy", "--fps", "16", "--window", "0", "--stride", "4"],
            "a grid of 16 fps, window 0, stride 4 is impossible",
        ),
        (
            ["--layout", "npy", "--fps", "1", "--window", "1", "--stride", "1", "--name", "a:b"],
            "'a:b' cannot name features",
        ),
        (
            ["--layout", "npz", "--fps", "1", "--window", "1", "--stride", "1"],
            "holds no files of the layout 'npz'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_usage_errors(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "in", NPY, {"a": (5, 5)})
    code = main(["features", "import", str(tmp_path / "in"), "--out", str(tmp_path / "s"), *words])
    assert code == (4 if "npz" in words else 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_layouts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "layouts", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(LAYOUTS)
    assert [part["width"] for part in listed["unav100-i3d-vggish"]["parts"]] == [1024, 1024, 128]


# Real arrays.


def test_the_public_extractors_own_arrays_are_imported_and_come_back(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    """I3D and VGGish of one real clip of 18.2 s at stack 24, step 24, VGGish every 0.96 s."""
    source = shared("data/features/ANet_v_GGSY1Qvo990")
    names = {"rgb": "i3d_rgb_24_24_25", "flow": "i3d_flow_raft_24_24_25", "vggish": "vggish"}
    (tmp_path / "in").mkdir()
    for name, file in names.items():
        (tmp_path / "in" / f"v_{name}.npy").write_bytes((source / f"{file}.npy").read_bytes())
    layout = find_layout("npy", vision=["{id}_rgb.npy", "{id}_flow.npy"], audio=["{id}_vggish.npy"])
    found = find_videos(tmp_path / "in", layout)
    reader = VideoReader(*with_widths(found, "i3d-vggish", plain_grid(Fraction(25), 24, 24)))
    report = import_features(reader, tmp_path / "store", durations={"v": 18.2})
    assert report.backbone == "imported:i3d-vggish:2048x128:25-24-24"
    assert report.counts["done"] == 1
    fixed = reader.found.layout
    export_features(FeatureStore.open(tmp_path / "store"), fixed, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "in")
