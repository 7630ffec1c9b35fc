"""Annotations and features of UnAV-100, checked against each other and against the real numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.layouts.importing import import_features
from extractors.layouts.table import LAYOUTS, find_videos
from extractors.layouts.video import VideoReader
from extractors.released import RELEASED
from extractors.storage.store import FeatureStore
from pipeline.cli import main
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, StoreError, UsageError
from workflows.annotations import load_annotations
from workflows.cost import shipped_recipe
from workflows.data_check import check_annotations
from workflows.detection.predict import TrainedDetector
from workflows.extraction.run import extract
from workflows.feature_check import check_files, check_store
from workflows.stages import run_stages
from workflows.unav100 import SUBSETS, check_unav100, class_names

LAYOUT = LAYOUTS["unav100-onepeace"]
SPEC = RELEASED["unav100-onepeace"]
DURATION = 10.0
STEPS = 37  # of ten seconds: (160 - 16) / 4 + 1


def row(start: float, end: float, label: str = "dog barking", **more: Any) -> dict[str, Any]:
    return {"segment": [start, end], "label": label, **more}


def video(*rows: dict[str, Any], subset: str = "train", duration: float | None = DURATION) -> Any:
    return {"duration": duration, "subset": subset, "annotations": list(rows)}


def write(folder: Path, videos: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labels.json"
    path.write_text(json.dumps({"database": videos}))
    return path


def name_of(number: int) -> str:
    """An id as YouTube gives them."""
    return f"-vid{number:07d}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A made-up data set with all the sizes of the real one."""
    names = class_names()
    videos: dict[str, Any] = {}
    for subset, count in SUBSETS.items():
        extra = count.events - count.videos
        for number in range(count.videos):
            repeats = 1 + extra // count.videos + (number < extra % count.videos)
            rows = []
            for place in range(repeats):
                id = (number + place) % len(names)
                rows.append(row(place, place + 0.5, names[id], label_id=id))
            videos[name_of(len(videos))] = video(*rows, subset=subset)
    return videos


# The annotation file.


def test_a_file_of_the_right_sizes_and_classes_is_as_expected(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    report, labels = check_unav100(write(tmp_path, whole))
    assert report.differences == ()
    assert report.problems == ()
    assert report.exit_code == 0
    assert len(labels.videos) == 10_790
    assert report.events == 30_059
    assert "as expected" in report.format_table()


def test_a_lost_video_is_counted_in_its_subset(whole: dict[str, Any], tmp_path: Path) -> None:
    lost = {id: entry for id, entry in whole.items() if id != name_of(10_789)}
    report, _ = check_unav100(write(tmp_path, lost))
    assert report.exit_code == 1
    assert "2166 videos in 'test', 1 fewer than the 2167 of UnAV-100" in report.differences[0]
    assert "expected 2167 and 5900" in report.format_table()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (video(row(0, 1, "dog bark", label_id=0)), "is 'man speaking' in UnAV-100, not 'dog bark'"),
        (
            video(row(0, 1, "woman speaking", label_id=7)),
            "not 'woman speaking', whose id is 1",
        ),
        (
            video(row(0, 1, "noise", label_id=100)),
            "row 0: label_id 100 of 'noise' is out of range 0 to 99",
        ),
        (video(), "has no event"),
        (video(row(0, 1, "man speaking", label_id=0), duration=75.0), "lasts 75 s"),
        (video(row(0, 1, "man speaking", label_id=0), duration=None), "has no duration"),
        (video(row(0, 1, "man speaking", label_id=0), subset="val"), "its subset is 'val'"),
    ],
)
def test_what_cannot_be_of_unav100_is_named_with_its_video(
    entry: Any, said: str, tmp_path: Path
) -> None:
    report, _ = check_unav100(write(tmp_path, {"-bad_video1": entry}))
    (found,) = [line for line in report.differences if said in line]
    assert "'-bad_video1'" in found


def test_an_odd_id_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"v_abc": video(row(0, 1))})
    assert any("'v_abc': no video" in line for line in check_unav100(path)[0].differences)


def test_the_class_list_is_that_of_the_golden_files(golden: Path) -> None:
    listed = (golden / "unav100_classes.txt").read_text(encoding="utf-8").splitlines()
    assert list(class_names()) == listed
    assert len(set(listed)) == 100


def test_the_real_file_is_as_expected(
    shared: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "unav100", str(shared("data/unav100_annotations.json"))]) == 0
    said = capsys.readouterr().out
    assert "10790   30059" in said
    assert "100 classes, 126.3 h" in said
    assert "as expected" in said


# Any annotation file: everything wrong is named, not only the first of it.


def test_every_impossible_row_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "a": video(row(1, 1), row(9, 12), row(11, 12), row(-1, 2), row(3, 4)),
            "b": video(row(0, 1, label_id=-1)),
            "c": video(row(2, 1)),
        },
    )
    report, labels = check_annotations(path)
    for where, said in (
        ("video 'a', row 0", "does not end after its start"),
        ("video 'a', row 1", "ends past the end of the video at 10 s"),
        ("video 'a', row 2", "lies past the end of the video at 10 s"),
        ("video 'a', row 3", "starts before 0"),
        ("video 'b', row 0", "label_id -1 of 'dog barking' is no whole number from 0"),
        ("video 'c', row 0", "does not end after its start"),
    ):
        assert any(where in line and said in line for line in report.problems), said
    assert report.exit_code == 1
    assert len(labels.videos["a"].events) == 1


def test_every_id_that_is_there_twice_is_named(tmp_path: Path) -> None:
    entry = json.dumps(video(row(0, 1)))
    text = ", ".join(f'"{id}": {entry}' for id in ("a", "b", "a", "c", "b"))
    path = tmp_path / "labels.json"
    path.write_text(f'{{"database": {{{text}}}}}')
    report, _ = check_annotations(path)
    assert report.problems == ("'a' is there twice", "'b' is there twice")
    with pytest.raises(ConfigError, match="'a' is there twice"):
        load_annotations(path, bad_rows="drop")


def test_more_mistakes_than_fit_are_counted_and_all_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"a": video(*(row(2, 1) for _ in range(50)))})
    assert main(["data", "check", str(path)]) == 1
    assert "wrong: ... and 30 more (--json names all)" in capsys.readouterr().out
    assert main(["data", "check", str(path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert len(said["annotations"]["problems"]) == 50
    assert said["features"] is None


def test_a_good_file_of_any_data_set_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"a": video(row(0, 1)), "b": video(subset="", duration=None)})
    assert main(["data", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "1 videos have no duration" in said
    assert "1 videos have no events" in said
    assert "ok: every row can be used" in said


def test_a_file_that_cannot_be_read_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.json").write_text("{")
    assert main(["data", "check", str(tmp_path / "labels.json")]) == 2
    assert main(["data", "unav100", str(tmp_path / "nobody.json")]) == 2
    assert "does not exist" in capsys.readouterr().err


# Features against annotations.


def put(folder: Path, id: str, *, vision: int = STEPS, audio: int = STEPS, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, steps in zip(LAYOUT.parts, (vision, audio), strict=True):
        if steps:
            array = rng.normal(size=(steps, 1536)).astype(np.float32)
            np.save(folder / part.path(id), array)


def spoil(folder: Path, id: str) -> None:
    path = folder / LAYOUT.parts[1].path(id)
    array = np.load(path)
    array[5, 7] = np.nan
    np.save(path, array)


@pytest.fixture
def features(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of features with one mistake of each kind, and its annotations."""
    folder = tmp_path / "features"
    names = ("good", "deaf", "short", "nan", "lost", "html")
    for id in ("good", "nan", "html", "extra"):
        put(folder, id)
    put(folder, "deaf", audio=0)
    put(folder, "short", vision=20, audio=20)
    spoil(folder, "nan")
    (folder / LAYOUT.parts[0].path("html")).write_text("<html>")
    (folder / "readme.txt").write_text("")
    return folder, write(tmp_path, {id: video(row(0, 1)) for id in names})


def test_each_mistake_in_a_folder_is_named_and_counted(features: tuple[Path, Path]) -> None:
    folder, labels = features
    reader = VideoReader(find_videos(folder, LAYOUT), SPEC)
    report = check_files(reader, load_annotations(labels).videos)
    assert report.missing == ("lost",)
    assert report.extra == ("extra",)
    assert report.others == 1
    assert report.counts == {"missing": 1, "unreadable": 1, "length": 1, "value": 1}
    assert {id: faults[0].kind for id, faults in report.faults.items()} == {
        "deaf": "missing",
        "short": "length",
        "nan": "value",
        "html": "unreadable",
    }
    said = report.format_table()
    assert "1 of 6 videos are right" in said
    assert "missing: lost" in said
    assert "wrong: short: vision has 20 steps, 10 s give 37; they may differ by 4 (1 s)" in said
    assert "nan_one_peace_audio.npy: 1 of 56832 values are NaN, the first in step 5" in said


def test_the_command_checks_a_folder_and_headers_alone_see_no_nan(
    features: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = features
    words = ["data", "check", str(labels), "--features", str(folder)]
    assert main(words) == 2
    assert "--layout" in capsys.readouterr().err
    words += ["--layout", "unav100-onepeace", "--json"]
    assert main(words) == 1
    assert json.loads(capsys.readouterr().out)["features"]["counts"]["value"] == 1
    assert main([*words, "--headers"]) == 1
    found = json.loads(capsys.readouterr().out)["features"]
    assert "value" not in found["counts"]
    assert not found["values_checked"]


def test_a_store_is_checked_like_the_folder_it_came_from(
    features: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, labels = features
    reader = VideoReader(find_videos(folder, LAYOUT), SPEC, missing="mask")
    import_features(reader, tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store")
    report = check_store(store, load_annotations(labels).videos)
    assert report.missing == ("nan", "lost", "html")
    assert {id: faults[0].kind for id, faults in report.faults.items()} == {
        "deaf": "missing",
        "short": "length",
    }
    assert main(["data", "check", str(labels), "--features", str(store.path)]) == 1
    assert "deaf: audio is masked in all steps" in capsys.readouterr().out
    generous = check_store(store, load_annotations(labels).videos, slack=5.0)
    assert list(generous.faults) == ["deaf"]


def test_only_one_subset_may_be_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "features", "a")
    labels = write(tmp_path, {"a": video(row(0, 1)), "b": video(row(0, 1), subset="test")})
    words = ["data", "check", str(labels), "--features", str(tmp_path / "features")]
    words += ["--layout", "unav100-onepeace"]
    assert main(words) == 1
    assert main([*words, "--subset", "train"]) == 0
    assert main([*words, "--subset", "tset"]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err


# From released files to a model: the recipe of the paper, made narrow.


NARROW = (
    "model.channels=8",
    "model.decoder_channels=8",
    "model.heads=2",
    "model.levels=3",
    "model.max_seq_len=64",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
    "train.batch_size=2",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped recipe on made-up files in the released layout."""
    folder = tmp_path_factory.mktemp("unav100")
    videos = {}
    for number, subset in enumerate(["train"] * 4 + ["validation"] * 2 + ["test"] * 2):
        id = name_of(number)
        put(folder / "released", id, audio=STEPS - number % 2, seed=number)
        rows = [row(1, 4, "dog barking", label_id=0), row(5.5, 9, "cat", label_id=1)]
        videos[id] = video(*rows, subset=subset)
    labels = write(folder, videos)
    words = ["--layout", "unav100-onepeace", "--annotations", str(labels)]
    store = ["--out", str(folder / "store")]
    assert main(["features", "import", str(folder / "released"), *words, *store]) == 0
    recipe = load_recipe(
        shipped_recipe("unav100_onepeace"),
        overrides=[
            *NARROW,
            f"data.annotations={labels}",
            f"data.features={folder / 'store'}",
            f"output.folder={folder / 'run'}",
        ],
    )
    report = run_stages(recipe, device="cpu")
    assert [line.outcome for line in report.rows] == ["left out", "done", "done", "left out"]
    assert report.exit_code == 0
    return folder


def test_a_recipe_trains_and_is_scored_on_an_imported_store_without_any_encoder(
    trained: Path,
) -> None:
    scores = json.loads((trained / "run" / "metrics.json").read_text())
    assert scores["videos"] == 2
    assert (trained / "run" / "best.safetensors").exists()


def test_a_model_of_released_features_says_why_it_cannot_look_at_a_video(
    trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="'unav100-onepeace' are features that others released"):
        detector = TrainedDetector(trained / "run" / "best.safetensors", device="cpu")
        detector(tmp_path / "some.mp4")


def test_extracting_with_released_features_says_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "some.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match="pipeline features import") as caught:
        extract([tmp_path / "some.mp4"], tmp_path / "store", backbone="unav100-onepeace")
    assert "--backbone onepeace" in str(caught.value)


def test_own_features_are_refused_where_the_recipe_names_released_ones(
    trained: Path, tmp_path: Path
) -> None:
    own = FeatureStore.create(tmp_path / "own", RELEASED["activitynet13-onepeace"])
    recipe = load_recipe(
        shipped_recipe("unav100_onepeace"),
        overrides=[
            f"data.annotations={trained / 'labels.json'}",
            f"data.features={own.path}",
            f"output.folder={tmp_path / 'run'}",
        ],
    )
    with pytest.raises(StoreError, match="made by the backbone 'activitynet13-onepeace'"):
        run_stages(recipe, stage="train", device="cpu")
