"""Annotation files are checked before anything is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.events import Event
from workflows.annotations import load_annotations
from workflows.matching import match_ids
from workflows.two_files import label_files


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
        ([row(1, 12)], "'clip', row 0: segment [1, 12] of 'dog' ends past the end of the video"),
        ([row(11, 12)], "lies past the end of the video at 10 s"),
        ([row(-1, 2)], "starts before 0"),
        ([row(2, 1)], "segment [2, 1] of 'dog' does not end after its start"),
        ([row(float("nan"), 1)], "segment [nan, 1] is not two finite seconds"),
        ([{"segment": [1], "label": "dog"}], "segment [1] is not two finite seconds"),
        ([{"segment": None, "label": "dog"}], "segment None is not two finite seconds"),
        ([row(1, 2, "")], "row 0: has no 'label'"),
        ([row(1, 2, label_id="0")], "label_id '0' of 'dog' is no whole number"),
        (
            [row(1, 2, label_id=0), row(3, 4, label_id=1)],
            "label 'dog' has the label_ids 0 (video 'clip', row 0) and 1 (video 'clip', row 1)",
        ),
        (
            [row(1, 2, label_id=0), row(1, 2, "cat", label_id=0)],
            "label_id 0 stands for 'dog' (video 'clip', row 0) and 'cat' (video 'clip', row 1)",
        ),
        ([row(1, 2, label_id=0), row(1, 2, "cat")], "row 1: label 'cat' has no label_id"),
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
    assert "1 rows" in labels.notes[0] and "were cut to its end" in labels.notes[0]


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    labels = load_annotations(write(tmp_path, row(1, 12), row(1, 2)), bad_rows="drop")
    assert [event.end for event in labels.videos["clip"].events] == [2.0]
    assert "1 bad rows" in labels.notes[0]


def test_a_conflict_of_labels_cannot_be_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, row(1, 2, label_id=0), row(1, 2, "cat", label_id=0))
    with pytest.raises(ConfigError, match="stands for"):
        load_annotations(path, bad_rows="drop")


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    labels = load_annotations(write(tmp_path, row(1, 2), row(1.0005, 2), row(1, 2, "cat")))
    assert len(labels.videos["clip"].events) == 2
    assert "1 rows" in labels.notes[0]


def test_a_video_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    entry = '{"subset": "train", "annotations": []}'
    path.write_text(f'{{"database": {{"clip": {entry}, "clip": {entry}}}}}')
    with pytest.raises(ConfigError, match="'clip' is there twice"):
        load_annotations(path)


def test_a_wrong_file_names_twenty_rows_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_annotations(write(tmp_path, *(row(2, 1) for _ in range(50))))
    assert "has 50 problems" in str(caught.value)
    assert "... and 30 more" in str(caught.value)


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


def test_a_tail_fits_in_either_direction_but_another_folder_does_not() -> None:
    found, missing = match_ids(["/data/set/a/one.mp4", "b/two"], ["a/one", "a/two.mp4"])
    assert found == {"/data/set/a/one.mp4": "a/one"}
    assert missing == ["b/two"]


def test_dots_that_start_no_extension_belong_to_the_name() -> None:
    found, missing = match_ids(["take.1", "take.2"], ["take.1.mp4", "take.3.mp4"])
    assert found == {"take.1": "take.1.mp4"}
    assert missing == ["take.2"]


def test_a_name_fits_however_its_accents_are_written() -> None:
    apart, joined = "hu\u0308ndchen", "h\u00fcndchen"  # macOS; a keyboard
    assert match_ids([joined], [f"{apart}.mp4"])[0] == {joined: f"{apart}.mp4"}
    assert match_ids([f"a/{apart}.mp4"], [joined])[0] == {f"a/{apart}.mp4": joined}


def test_an_exact_name_wins_over_others_that_would_fit() -> None:
    assert match_ids(["one"], ["one", "a/one.mp4"])[0] == {"one": "one"}


def test_a_stem_that_fits_two_files_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a/one\.mp4, b/one\.mp4"):
        match_ids(["one"], ["a/one.mp4", "b/one.mp4"])


def test_two_names_of_one_video_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'one' and 'one.mp4' both fit"):
        match_ids(["one", "one.mp4"], ["a/one.mp4"])


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


def test_activitynet_in_two_files_is_read_as_one(tmp_path: Path) -> None:
    entry = {"duration_second": 9.5, "duration_frame": 95}
    rows = [{"segment": [1.0, 2.0], "label": "Ballet"}]
    path = tmp_path / "anet_anno_action.json"
    path.write_text(
        json.dumps(
            {"v_a": {**entry, "annotations": rows}, "v_b": {**entry, "annotations": rows * 2}}
        )
    )
    assert label_files(path) == (path,)
    with pytest.raises(ConfigError, match=r"no video_info_new\.csv beside it"):
        load_annotations(path)
    info = tmp_path / "video_info_new.csv"
    info.write_text("video,numFrame,subset\nv_b,95,validation\nv_a,95,training\nv_c,9,training\n")
    assert label_files(path) == (path, info), "stages run again when either has changed"
    found = load_annotations(path)
    assert {id: (v.subset, v.duration) for id, v in found.videos.items()} == {
        "v_a": ("training", 9.5),
        "v_b": ("validation", 9.5),
    }
    assert found.subset("training")["v_a"].events == (Event(1.0, 2.0, "Ballet", 1.0),)
    info.write_text("video,numFrame\nv_b,95\n")
    with pytest.raises(ConfigError, match="no column 'subset'"):
        load_annotations(path)
