"""Annotation files are checked before anything is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from workflows.annotations import load_annotations
from workflows.matching import match_ids


def write(
    folder: Path, *rows: dict[str, Any], duration: float = 10.0, subset: str = "train"
) -> Path:
    path = folder / "labels.json"
    entry = {"duration": duration, "subset": "train", "annotations": list(rows)}
    path.write_text(json.dumps({"database": {"clip": entry}}))
    return path


def row(start: float, end: float, label: str = "dog", **more: Any) -> dict[str, Any]:
    return {"segment": [start, end], "label": label, **more}


def test_a_good_file_gives_events_and_alphabetical_classes(tmp_path: Path) -> None:
    labels = load_annotations(write(tmp_path, row(1, 2, "dog"), row(3, 4, "cat")))
    assert labels.classes == ("cat", "dog")
    assert [event.start for event in labels.videos["clip"].events] == [1.0, 3.0]
    assert list(labels.subset("TRAIN")) == ["clip"]


def test_label_ids_decide_the_order_of_the_classes(tmp_path: Path) -> None:
    path = write(tmp_path, row(1, 2, "dog", label_id=0), row(3, 4, "cat", label_id=7))
    assert load_annotations(path).classes == ("dog", "cat")


def test_a_video_without_events_is_allowed(tmp_path: Path) -> None:
    assert load_annotations(write(tmp_path)).videos["clip"].events == ()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1, 12)], "clip, row 0: segment 1 to 12 s leaves the video of 10 s"),
        ([row(2, 1)], "ends at 1 s, before its start at 2 s"),
        ([row(float("nan"), 1)], "must be two seconds"),
        ([{"segment": [1], "label": "dog"}], "must be two seconds"),
        ([row(1, 2, "")], "label is ''"),
        ([row(1, 2, label_id="0")], "label_id is '0'"),
        ([row(1, 2, label_id=0), row(1, 2, label_id=1)], "has label_id 1, elsewhere 0"),
        ([row(1, 2, label_id=0), row(1, 2, "cat", label_id=0)], "label_id 0 stands for"),
        ([row(1, 2, label_id=0), row(1, 2, "cat")], "some labels have no label_id: cat"),
    ],
)
def test_a_mistake_is_named_with_video_and_row(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_annotations(write(tmp_path, *rows))
    assert said in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_annotations(write(tmp_path, row(1, 12), row(2, 1)))
    assert "row 0" in str(caught.value)
    assert "row 1" in str(caught.value)


def test_a_rounded_duration_is_no_mistake_and_the_end_is_clipped(tmp_path: Path) -> None:
    labels = load_annotations(write(tmp_path, row(8, 10.3)))
    assert labels.videos["clip"].events[0].end == 10.0


def test_an_unknown_subset_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="subsets: train"):
        load_annotations(write(tmp_path, row(1, 2))).subset("test")


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_file_that_is_no_annotation_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"labels\.json"):
        load_annotations(path)


def test_ids_match_paths_names_without_suffix_and_stems() -> None:
    stored = ["a/one.mp4", "a/two.mkv", "three.mp4"]
    found, missing = match_ids(["a/one.mp4", "a/two", "three", "four"], stored)
    assert found == {"a/one.mp4": "a/one.mp4", "a/two": "a/two.mkv", "three": "three.mp4"}
    assert missing == ["four"]


def test_a_stem_that_fits_two_files_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a/one\.mp4, b/one\.mp4"):
        match_ids(["one"], ["a/one.mp4", "b/one.mp4"])


def test_the_real_unav100_file_holds_what_its_paper_says(shared: Callable[[str], Path]) -> None:
    labels = load_annotations(shared("data/unav100_annotations.json"))
    assert len(labels.videos) == 10_790
    assert sum(len(entry.events) for entry in labels.videos.values()) == 30_059
    assert len(labels.classes) == 100
    assert [len(labels.subset(name)) for name in ("train", "validation", "test")] == [
        6489,
        2134,
        2167,
    ]
