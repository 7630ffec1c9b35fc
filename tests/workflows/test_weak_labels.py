"""Labels of whole videos: where they come from, and that no segment gets through."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.storage.store import FeatureStore
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
    ["file,label", "file,labels", "File,Label", "filename,label", "file", "VIDEO,label1,label2"],
)
def test_a_header_is_no_video_whatever_its_words(tmp_path: Path, header: str) -> None:
    found = load_video_labels(write(tmp_path, f"{header}\na.mp4,dog\n"))
    assert found.classes == ("dog",) and list(found.videos) == ["a.mp4"]


def test_only_the_first_row_can_be_a_header_and_no_media_file_is(tmp_path: Path) -> None:
    found = load_video_labels(write(tmp_path, "file.mp4,dog\nvideo,cat\n"))
    assert list(found.videos) == ["file.mp4", "video"]


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
