"""Answers that know part of the truth, and what they score on the real annotations."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import ConfigError
from pipeline.core.events import Event
from workflows.annotations import VideoLabels, load_annotations, load_truth
from workflows.bounds import activity_on, measure_bounds, nested_parts, whole_video

VIDEO = VideoLabels(
    "test",
    10.0,
    (Event(1.0, 3.1, "dog", 1.0), Event(3.9, 6.0, "dog", 1.0), Event(0.0, 10.0, "rain", 1.0)),
)


def test_the_whole_video_is_proposed_once_for_each_class() -> None:
    assert [tuple(c[:3]) for c in whole_video(VIDEO, 10.0)] == [
        (0.0, 10.0, "dog"),
        (0.0, 10.0, "rain"),
    ]


def test_parts_rank_after_the_wholes_that_hold_them() -> None:
    found = nested_parts(VIDEO, 10.0)
    assert len(found) == 2 * 7
    assert {c.rank for c in found if c.end - c.start == 5.0} == {0.5}
    assert (2.5, 5.0, "dog", 0.25) in found


def test_activity_joins_events_that_a_grid_cannot_tell_apart() -> None:
    fine = [c[:2] for c in activity_on(0.5)(VIDEO, 10.0) if c.label == "dog"]
    assert fine == [(1.0, 3.0), (4.0, 6.0)]
    coarse = [c[:2] for c in activity_on(2.0)(VIDEO, 10.0) if c.label == "dog"]
    assert coarse == [(0.0, 6.0)], "half of 0-2, 2-4 and all of 4-6"


def test_the_order_of_equal_ranks_is_told_by_its_deviation() -> None:
    videos = {
        name: VideoLabels(name, 10.0, (Event(0.0, length, "dog", 1.0),))
        for name, length in (("short", 2.0), ("long", 9.0))
    }
    found = measure_bounds(videos, tiou=(0.1, 0.5))
    whole = found.deviations["whole video, oracle labels"]
    assert whole[0] == 0, "both are right, in whichever order"
    assert whole[1] > 0, "only one is right: first, or second"


def test_a_perfect_grid_scores_all_and_the_table_says_what_was_done(tmp_path: Path) -> None:
    rows = [{"segment": [2.0, 4.0], "label": "dog"}, {"segment": [5.0, 9.0], "label": "rain"}]
    video = {"duration": 10.0, "subset": "test", "annotations": rows}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"database": {"a": video, "b": video}}))
    found = measure_bounds(load_annotations(path).subset("test"))
    assert found.scores["oracle activity, 0.25 s grid"].average == 1.0
    assert found.scores["whole video, oracle labels"].at(0.2) == 1.0
    assert found.scores["whole video, oracle labels"].at(0.5) == 0.0
    assert "2 videos" in found.format_table()
    assert found.deviations["oracle activity, 1 s grid"].tolist() == [0.0] * 9, "no order matters"
    assert found.to_json()["bounds"]["oracle activity, 1 s grid"]["average_mAP"] == 1.0


def test_the_command_prints_bounds_at_the_thresholds_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = {
        "duration": 10.0,
        "subset": "test",
        "annotations": [{"segment": [0.0, 7.7], "label": "dog"}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"database": {"a": video}}))
    words = ["eval", "--annotations", str(path), "--bounds", "--json", "--tiou", "0.5:0.25:1"]
    assert main(words) == 0
    whole = json.loads(capsys.readouterr().out)["bounds"]["whole video, oracle labels"]
    assert whole["tiou"] == [0.5, 0.75, 1.0] and whole["mAP"] == [1.0, 1.0, 0.0]
    assert main(["eval", "--annotations", str(path)]) == 2
    assert "--bounds" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0.5,0.4", "0", "1.5", "x", "0.5:0:0.9", ""])
def test_thresholds_that_are_none_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--annotations", "labels.json", "--bounds", "--tiou", text])
    assert "--tiou" in capsys.readouterr().err


def test_bounds_of_unav100_are_those_of_the_specification(shared: Callable[[str], Path]) -> None:
    videos = load_annotations(shared("data/unav100_annotations.json")).subset("test")
    found = measure_bounds(videos).scores
    # Cells of the specification come from one order of equal ranks, which moves a cell by 0.2 (one
    # standard deviation); their averages are moved less.
    expected = {
        "whole video, oracle labels": (
            28.7,
            [52.0, 43.5, 36.9, 30.9, 26.0, 22.5, 18.6, 15.3, 12.6],
        ),
        "whole + halves + quarters, oracle labels": (
            36.3,
            [69.1, 55.7, 47.0, 39.0, 33.0, 28.3, 23.5, 17.4, 13.3],
        ),
        "oracle activity, 1 s grid": (
            89.8,
            [99.1, 99.1, 99.1, 97.7, 95.5, 92.3, 86.8, 78.2, 60.6],
        ),
        "oracle activity, 0.5 s grid": (95.6, [100, 100, 100, 99.9, 99.8, 99.2, 95.5, 89.3, 76.4]),
        "oracle activity, 0.25 s grid": (98.5, [100, 100, 100, 100, 100, 99.9, 99.7, 97.6, 89.0]),
    }
    for name, (average, cells) in expected.items():
        assert 100 * found[name].average == pytest.approx(average, abs=0.2), name
        assert 100 * found[name].by_tiou == pytest.approx(cells, abs=0.5), name


def test_bounds_of_activitynet_are_those_of_the_specification(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shared("data/annotations/activitynet/anet_anno_action.json")
    with pytest.raises(ConfigError, match="has 13 problems"):
        load_annotations(path)
    videos = load_truth(path, subset="validation", bad_rows="drop").subset("validation")
    tiou = [0.5 + 0.05 * step for step in range(10)]
    found = measure_bounds(videos, tiou=tiou).scores
    whole, activity = (
        found[name] for name in ("whole video, oracle labels", "oracle activity, 0.5 s grid")
    )
    for value, expected in (
        (whole.average, 20.7),
        (whole.at(0.5), 35.4),
        (whole.at(0.75), 19.7),
        (whole.at(0.95), 4.8),
        (activity.average, 95.1),
    ):
        assert 100 * value == pytest.approx(expected, abs=0.2)


def test_the_command_leaves_bad_rows_out_and_looks_at_no_segment_of_another_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"segment": [0.0, 7.7], "label": "dog"}, {"segment": [50.0, 60.0], "label": "dog"}]
    tested = {"duration": 10.0, "subset": "test", "annotations": rows}
    weak = {"subset": "train", "annotations": [{"label": "dog"}, {"label": "dog", "segment": 3}]}
    path, found = tmp_path / "labels.json", tmp_path / "found.json"
    path.write_text(json.dumps({"database": {"a": tested, "b": weak}}))
    found.write_text(json.dumps({"results": {"a": [{**rows[0], "score": 0.9}]}}))
    for words in (["--bounds"], ["--predictions", str(found)]):
        words = ["eval", "--annotations", str(path), "--tiou", "0.5", *words]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "lies past the end" in said and "--bad-rows drop" in said and "'b'" not in said
        assert main([*words, "--bad-rows", "drop"]) == 0
        table = capsys.readouterr().out
        assert "100.0" in table and "note: 1 bad rows" in table


def test_videos_without_events_have_no_bounds() -> None:
    with pytest.raises(ConfigError, match="no annotated event"):
        measure_bounds({"a": VideoLabels("test", 10.0, ())})
