"""Labels of whole videos: where they come from, and that no segment gets through."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.storage.store import FeatureStore
from pipeline.cli import main
from pipeline.core.errors import ConfigError
from tests.fixtures.planted import CLASSES, SPEC, add_video, noise
from workflows.weak.dataset import WeakDataset
from workflows.weak.video_labels import load_video_labels


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_names_a_file_and_its_labels_in_each_row(tmp_path: Path) -> None:
    text = (
        "file,label\n"
        "kitchen/monday.mp4, frying food,dog barking\n"
        "\n"
        '"a, b.mp4",dog barking,\n'
        "kitchen\\monday.mp4,dog barking,rain\n"
        "empty.mp4\n"
    )
    found = load_video_labels(write(tmp_path, text))
    assert found.classes == ("dog barking", "frying food", "rain")
    assert {id: video.classes for id, video in found.subset("train").items()} == {
        "kitchen/monday.mp4": ("frying food", "dog barking", "rain"),
        "a, b.mp4": ("dog barking",),
        "empty.mp4": (),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a.mp4,dog\nb.mp4,"cat\nc.mp4,dog\n', "row 2: the cell 'cat' goes on over 2 lines"),
        ("file,dog,cat\na.mp4,1,0\nb.mp4,0,1\n", "like a table with a column for each class"),
        ("a.mp4,TRUE\nb.mp4,False\n", "no names of classes but 'False', 'TRUE'"),
        ("", "names no file"),
        ("file,label\n", "names no file"),
        ("a.mp4\nb.mp4\n", "names no label"),
        ("a.mp4,dog\n,cat\n", "row 2: labels ['cat'] without a file"),
    ],
)
def test_a_csv_without_files_or_labels_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_video_labels(write(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        "file,label", "file,labels", "File,Label", "filename,label", "file", "VIDEO,label1,label2",
        "\n\nfile,label", "clip,class", "Datei,Labels", "sep=,\nfile,label",
    ],
)  # fmt: skip
def test_a_header_is_no_video_whatever_its_words(tmp_path: Path, header: str) -> None:
    found = load_video_labels(write(tmp_path, f"{header}\na.mp4,dog\n"))
    assert found.classes == ("dog",) and list(found.videos) == ["a.mp4"]


def test_only_the_first_row_can_be_a_header_and_no_media_file_is(tmp_path: Path) -> None:
    found = load_video_labels(write(tmp_path, "file.mp4,dog\nvideo,cat\n"))
    assert list(found.videos) == ["file.mp4", "video"]


def test_a_class_called_like_a_header_is_no_header_after_a_media_file(tmp_path: Path) -> None:
    assert list(load_video_labels(write(tmp_path, "a.mp4,label\nb.mp4,label\n")).videos) == [
        "a.mp4",
        "b.mp4",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "file;label\na.mp4;bell, church;dog\nb.mp4;dog\n",
        "a.mp4;bell, church;dog\nb.mp4;dog\n",
        'sep=;\r\nfile;label\r\na.mp4;"bell, church";dog\r\nb.mp4;dog;\r\n',
        "a.mp4\tbell, church\tdog\nb.mp4\tdog\n",
        'a.mp4,"bell, church",dog\n"b.mp4",dog\n',
        "a;bell, church;dog\nb;dog\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_spreadsheets_write_is_read_alike(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    found = load_video_labels(path)
    assert found.classes == ("bell, church", "dog")
    assert [video.classes for video in found.videos.values()] == [("bell, church", "dog"), ("dog",)]
    assert {id.removesuffix(".mp4") for id in found.videos} == {"a", "b"}


def test_a_semicolon_in_a_label_separates_nothing_where_commas_do(tmp_path: Path) -> None:
    found = load_video_labels(write(tmp_path, "a.mp4,dog; cat\nb.mp4,dog\n"))
    assert found.classes == ("dog", "dog; cat")
    (note,) = found.notes
    assert "one class each, not several: 'dog; cat'" in note
    quoted = load_video_labels(write(tmp_path, 'a.mp4,"dog, cat"\nb.mp4,cat\n'))
    assert quoted.classes == ("cat", "dog, cat") and "'dog, cat'" in quoted.notes[0]
    alone = load_video_labels(write(tmp_path, 'a.mp4,"bell, church"\nb.mp4,cat\n'))
    assert alone.notes == ()


def test_a_text_of_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("a.mp4,Hündin\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="no UTF-8 text: byte 0xfc at 7") as caught:
        load_video_labels(path)
    assert "CSV UTF-8" in str(caught.value.hint)


def test_a_label_of_one_video_that_is_spelt_like_a_usual_one_is_said(tmp_path: Path) -> None:
    rows = ["a.mp4,dog barking", "b.mp4,dog barking", "c.mp4,dog barkin", "d.mp4,rain"]
    (note,) = load_video_labels(write(tmp_path, "\n".join(rows))).notes
    assert "'dog barkin' like 'dog barking'" in note and "rain" not in note
    case, slip = load_video_labels(write(tmp_path, "\n".join([*rows, "e.mp4,Dog barking"]))).notes
    assert "'Dog barking' and 'dog barking'" in case and slip == note


def test_labels_that_differ_only_in_case_are_said(tmp_path: Path) -> None:
    found = load_video_labels(write(tmp_path, "a.mp4,dog,rain\nb.mp4,Dog \n"))
    assert found.classes == ("Dog", "dog", "rain")
    (note,) = found.notes
    assert "'Dog' and 'dog'" in note and "rain" not in note
    text = annotations({"label": "Cat"}, {"label": "cat"})
    (note,) = load_video_labels(write(tmp_path, text, "labels.json")).notes
    assert "'Cat' and 'cat'" in note


def test_an_annotation_file_without_any_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no label"):
        load_video_labels(write(tmp_path, annotations(), "labels.json"))


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv do not exist"):
        load_video_labels(tmp_path / "none.csv")


def annotations(*rows: object) -> str:
    video = {"subset": "train", "duration": 5.0, "annotations": rows}
    return json.dumps({"database": {"clip": video}})


def test_segments_of_an_annotation_file_may_be_missing_or_impossible(tmp_path: Path) -> None:
    text = annotations(
        {"label": "dog"},
        {"label": "bell", "segment": [900, 3]},
        {"label": "dog", "segment": "soon"},
    )
    video = load_video_labels(write(tmp_path, text, "labels.json")).videos["clip"]
    assert video.classes == ("dog", "bell") and video.events == ()


def test_labels_of_an_annotation_file_are_still_checked(tmp_path: Path) -> None:
    text = annotations({"label": "dog", "label_id": 1}, {"label": "dog", "label_id": 2})
    with pytest.raises(ConfigError, match="label_ids 1"):
        load_video_labels(write(tmp_path, text, "labels.json"))


@pytest.fixture
def weak(tmp_path: Path) -> WeakDataset:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    add_video(store, "clip.mp4", noise(np.random.default_rng(0), 40))
    text = annotations(
        {"label": "dog", "segment": [1, 2]},
        {"label": "bell", "segment": [3, 4]},
        {"label": "dog", "segment": [4, 5]},
    )
    from workflows.annotations import load_annotations

    labels = load_annotations(write(tmp_path, text, "labels.json"))
    return WeakDataset(store, labels.subset("train"), CLASSES)


def test_samples_know_each_class_once_and_no_segment(weak: WeakDataset) -> None:
    sample = weak.sample("clip")
    assert sample.labels.tolist() == [CLASSES.index("dog"), CLASSES.index("bell")]
    assert sample.segments.shape == (0, 2)
    assert weak.videos["clip"].events == ()


def test_what_is_not_learned_is_said(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    for name in ("labelled.mp4", "other.mp4"):
        add_video(store, name, noise(np.random.default_rng(0), 40))
    found = load_video_labels(write(tmp_path, "labelled.mp4,dog\nlost.mp4,bell\n"))
    data = WeakDataset(store, found.videos, found.classes, name_others=True)
    others, classes = data.describe_changed()
    assert "1 videos" in others and "other.mp4" in others and "labelled" not in others
    assert classes == "1 of 2 classes are in none of these videos and will not be found: bell"
    both = WeakDataset(store, {**found.videos, "other": found.videos["lost.mp4"]}, found.classes)
    assert both.describe_changed() == []


def test_a_piece_keeps_all_labels_and_fits_its_masks(weak: WeakDataset) -> None:
    whole = weak.sample("clip")
    lengths = set()
    for seed in range(30):
        piece = weak.crop(
            whole, max_steps=30, share=(0.5, 1.0), keep=0.5, generator=random.Random(seed)
        )
        assert torch.equal(piece.labels, whole.labels)
        assert piece.vision.shape[1] == piece.audio.shape[1] == piece.steps <= 30
        start = int((whole.vision[0] == piece.vision[0, 0]).nonzero()[0])
        assert torch.equal(piece.audio, whole.audio[:, start : start + piece.steps])
        lengths.add(piece.steps)
    assert min(lengths) >= 20 and len(lengths) > 3


def test_a_list_of_labels_is_checked_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    add_video(store, "a.mp4", noise(np.random.default_rng(0), 40))
    add_video(store, "other.mp4", noise(np.random.default_rng(0), 40))
    path = write(tmp_path, "a.mp4,dog,bell\nb.mp4,dog\nquiet.mp4\n")
    words = ["data", "check", str(path)]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert "2 classes, 3 videos" in table and "nothing happens in quiet.mp4" in table
    assert main([*words, "--features", str(tmp_path / "store"), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["annotations"]["classes"] == {"bell": 1, "dog": 2}
    assert said["features"]["missing"] == ["b.mp4", "quiet.mp4"]
    assert said["features"]["extra"] == ["other.mp4"]
    assert main(["data", "check", str(write(tmp_path, "a.mp4,1\nb.mp4,0\n"))]) == 2
    assert "a column for each class" in capsys.readouterr().err
