"""Scoring result files as people hand them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from workflows.evaluate import evaluate_file, results_json, score
from workflows.metrics import Event


def labels(folder: Path, **videos: list[dict[str, Any]]) -> Path:
    database = {
        name: {"duration": 10.0, "subset": "test", "annotations": rows}
        for name, rows in videos.items()
    }
    path = folder / "labels.json"
    path.write_text(json.dumps({"database": database}))
    return path


def results(folder: Path, value: Any) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(value))
    return path


def row(start: float, end: float, label: str = "dog", **more: Any) -> dict[str, Any]:
    return {"segment": [start, end], "label": label, **more}


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("00_generic", "unav"),
        ("02_duplicate_ground_truth", "unav"),
        ("05_predictions_outside_the_split", "unav"),
        ("06_labels_with_gaps", "unav_without_unknown_ids"),
        ("12_very_short_ground_truth", "unav"),
    ],
)
def test_files_score_what_the_reference_evaluator_says(
    golden: Path, tmp_path: Path, name: str, reference: str
) -> None:
    case = json.loads((golden / "map" / f"{name}.json").read_text())
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(case["ground_truth"]))
    rows: dict[str, list[dict[str, Any]]] = {}
    for video, start, end, label_id, level in case["predictions"]:
        rows.setdefault(video, []).append(
            {"segment": [start, end], "label_id": label_id, "score": level}
        )
    found = results(tmp_path, {"results": rows})
    report = evaluate_file(found, truth, subset=case["split"], tiou=case["tiou"])
    expected = case["results"][reference]["average_mAP"]
    assert report.scores.average == pytest.approx(expected, abs=1e-9)


def test_names_fit_without_folder_and_extension(tmp_path: Path) -> None:
    truth = labels(tmp_path, clip=[row(0, 5)])
    found = results(tmp_path, {"results": {"/films/clip.mp4": [row(0, 5, score=0.9)]}})
    assert evaluate_file(found, truth).scores.average == 1.0


def test_the_baseline_answers_with_the_whole_video(tmp_path: Path) -> None:
    truth = labels(tmp_path, clip=[row(0, 5)])
    found = results(tmp_path, {"results": {"clip": [row(0, 5, score=0.9)]}})
    report = evaluate_file(found, truth)
    assert report.baseline.at(0.5) == 1.0
    assert report.baseline.at(0.6) == 0.0
    assert "whole-video baseline" in report.format_table()


def test_strangers_are_counted_and_named(tmp_path: Path) -> None:
    truth = labels(tmp_path, clip=[row(0, 5)], other=[row(0, 5)])
    rows = {"clip": [row(0, 5, score=0.9), row(0, 5, "dgo", score=0.9)],
            "zoo": [row(0, 5, score=0.95)]}  # fmt: skip
    report = evaluate_file(results(tmp_path, {"results": rows}), truth)
    notes = " / ".join(report.notes)
    assert "1 of 2 annotated videos have no predictions: other" in notes
    assert "1 predictions are for videos outside the split and count as wrong: zoo" in notes
    assert "1 predictions are of classes without an event in the split" in notes
    assert "dgo" in notes
    kind = evaluate_file(results(tmp_path, {"results": rows}), truth, other_videos="drop")
    assert kind.scores.average > report.scores.average


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "has no 'results'"),
        ({"results": {"clip": [row(0, 5)]}}, "'clip', row 0: has no 'score'"),
        ({"results": {"clip": [row(5, 0, score=1)]}}, "before its start"),
        ({"results": {"clip": [row(0, 5, score=float("nan"))]}}, "not finite"),
        ({"results": {"clip": [{"label": "dog", "score": 1}]}}, "has no 'segment'"),
        ({"results": {"clip": 5}}, "'clip', row 0"),
    ],
)
def test_a_wrong_results_file_is_named_with_video_and_row(
    tmp_path: Path, value: Any, said: str
) -> None:
    truth = labels(tmp_path, clip=[row(0, 5)])
    with pytest.raises(ConfigError) as caught:
        evaluate_file(results(tmp_path, value), truth)
    assert said in str(caught.value)


def test_a_split_without_events_cannot_be_scored(tmp_path: Path) -> None:
    found = results(tmp_path, {"results": {}})
    with pytest.raises(ConfigError, match="no annotated event"):
        evaluate_file(found, labels(tmp_path, clip=[]))


def test_written_results_read_back_to_the_same_score(tmp_path: Path) -> None:
    truth = labels(tmp_path, clip=[row(1, 5)])
    value = results_json({"clip": [Event(1.0, 4.123456789, "dog", 0.123456789)]})
    report = evaluate_file(results(tmp_path, value), truth)
    assert report.scores.at(0.7) == 1.0
    assert report.to_json()["scores"]["AP"]["dog"][-1] == 0.0


def test_the_table_tells_activitynets_thresholds_apart(tmp_path: Path) -> None:
    truth = labels(tmp_path, clip=[row(0, 5)])
    found = results(tmp_path, {"results": {"clip": [row(0, 5, score=0.9)]}})
    report = evaluate_file(found, truth, tiou=(0.5, 0.55, 0.6, 0.95))
    assert report.format_table().splitlines()[0].split()[-5:] == [
        "0.50",
        "0.55",
        "0.60",
        "0.95",
        "mean",
    ]


def test_the_whole_video_answer_ranks_by_scores_of_the_video_where_there_are_some() -> None:
    truth = {"a": [Event(0, 10, "dog", 1.0)], "b": [Event(0, 10, "cat", 1.0)]}
    found = {"a": [Event(0, 9, "dog", 0.3)], "b": [Event(0, 9, "dog", 0.6)]}
    durations = {"a": 10.0, "b": 10.0}
    by_event = score(truth, found, durations).baseline
    assert by_event.classes == ("cat", "dog") and by_event.average == 0.25
    said = {"a": {"dog": 0.9, "cat": 0.1}, "b": {"dog": 0.2, "cat": 0.8}}
    own = score(truth, found, durations, video_scores=said)
    assert own.baseline.average == 1.0 and own.scores.average == 0.25
