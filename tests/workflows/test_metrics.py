"""Mean average precision equals the reference evaluators, and is right where they err."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.events import Event
from workflows.metrics import best_threshold, mean_average_precision, whole_video_baseline

EXACT = 1e-9  # float64 sums in another order


def load(path: Path) -> tuple[dict[str, list[Event]], dict[str, list[Event]], dict[str, Any]]:
    case = json.loads(path.read_text())
    truth = {
        video: [
            Event(*row["segment"], label=f"{row['label_id']:04d}", score=1.0)
            for row in entry["annotations"]
        ]
        for video, entry in case["ground_truth"]["database"].items()
        if entry["subset"].lower() == case["split"]
    }
    predictions: dict[str, list[Event]] = {}
    for video, start, end, label, score in case["predictions"]:
        predictions.setdefault(video, []).append(Event(start, end, f"{label:04d}", score))
    return truth, predictions, case


@pytest.mark.parametrize(
    "name",
    [
        "00_generic",
        "01_class_without_predictions",
        "02_duplicate_ground_truth",
        "05_predictions_outside_the_split",
        "07_perfect",
        "12_very_short_ground_truth",
    ],
)
def test_the_scores_are_the_reference_scores(golden: Path, name: str) -> None:
    truth, predictions, case = load(golden / "map" / f"{name}.json")
    scores = mean_average_precision(truth, predictions, tiou=case["tiou"])
    expected = case["results"]["unav"]
    np.testing.assert_allclose(scores.by_tiou, expected["mAP"], atol=EXACT)
    assert scores.average == pytest.approx(expected["average_mAP"], abs=EXACT)
    for label, row in zip(scores.classes, scores.precision, strict=True):
        np.testing.assert_allclose(row, expected["ap"][str(int(label))], atol=EXACT)


def test_label_numbers_with_gaps_do_not_mix_classes_up(golden: Path) -> None:
    truth, predictions, case = load(golden / "map" / "06_labels_with_gaps.json")
    scores = mean_average_precision(truth, predictions, tiou=case["tiou"])
    right = case["results"]["unav_without_unknown_ids"]["average_mAP"]
    assert scores.average == pytest.approx(right, abs=EXACT)


def test_tied_scores_give_one_answer_whatever_their_order(golden: Path) -> None:
    truth, predictions, case = load(golden / "map" / "04_score_ties.json")
    found = set()
    for seed in range(6):
        mixed = {
            video: random.Random(seed).sample(rows, len(rows))
            for video, rows in predictions.items()
        }
        found.add(mean_average_precision(truth, mixed, tiou=case["tiou"]).average)
    assert len(found) == 1
    documented = case["results"]["unav_average_mAP_over_6_shuffles"]
    assert min(documented) < found.pop() < max(documented)


def test_no_prediction_scores_nothing() -> None:
    truth = {"a": [Event(0, 1, "dog", 1.0)]}
    assert mean_average_precision(truth, {}).average == 0.0


def test_a_second_hit_of_one_event_is_a_false_alarm() -> None:
    truth = {"a": [Event(0, 10, "dog", 1.0)], "b": [Event(0, 10, "dog", 1.0)]}
    twice = {
        "a": [Event(0, 10, "dog", 0.9), Event(0, 10, "dog", 0.8)],
        "b": [Event(0, 10, "dog", 0.7)],
    }
    # Precision at the two hits: 1/1 and 2/3.
    assert mean_average_precision(truth, twice).average == pytest.approx((1 + 2 / 3) / 2)


def test_empty_ground_truth_is_refused() -> None:
    with pytest.raises(ValueError, match="no event"):
        mean_average_precision({"a": []}, {})


def test_the_whole_video_baseline_hits_only_events_that_fill_their_video() -> None:
    truth = {"a": [Event(0, 10, "dog", 1.0)], "b": [Event(0, 1, "dog", 1.0)]}
    guess = whole_video_baseline({"a": 10.0, "b": 10.0}, {"a": {"dog": 0.9}, "b": {"dog": 0.8}})
    scores = mean_average_precision(truth, guess)
    assert scores.at(0.9) == pytest.approx(0.5)
    assert scores.at(0.1) == pytest.approx(1.0)


def test_predictions_for_other_videos_are_wrong_or_left_out_as_asked() -> None:
    truth = {"a": [Event(0, 10, "dog", 1.0)]}
    found = {"a": [Event(0, 10, "dog", 0.8)], "z": [Event(0, 10, "dog", 0.9)]}
    scores = mean_average_precision(truth, found)
    assert (scores.average, scores.other_videos) == (0.5, 1)
    assert mean_average_precision(truth, found, other_videos="drop").average == 1.0


def test_the_order_of_events_and_videos_never_matters(golden: Path) -> None:
    truth, predictions, case = load(golden / "map" / "04_score_ties.json")
    expected = mean_average_precision(truth, predictions, tiou=case["tiou"])
    mixed_truth = {video: truth[video][::-1] for video in sorted(truth, reverse=True)}
    mixed = {video: predictions[video][::-1] for video in sorted(predictions, reverse=True)}
    found = mean_average_precision(mixed_truth, mixed, tiou=case["tiou"])
    np.testing.assert_array_equal(found.precision, expected.precision)


def test_an_overlap_exactly_on_a_threshold_counts() -> None:
    truth = {"a": [Event(0, 10, "dog", 1.0)]}
    for tiou in np.linspace(0.1, 0.9, 9):
        found = {"a": [Event(0, 10 * round(float(tiou), 1), "dog", 1.0)]}
        assert mean_average_precision(truth, found, tiou=[float(tiou)]).average == 1.0


def test_a_threshold_that_was_not_measured_is_refused() -> None:
    event = {"v": [Event(0.0, 1.0, "cat", 1.0)]}
    with pytest.raises(ValueError, match=r"no mAP at tIoU 0\.75: measured were 0\.5, 0\.7"):
        mean_average_precision(event, event, tiou=(0.5, 0.7)).at(0.75)


def test_the_best_threshold_is_where_f1_is_largest() -> None:
    truth = {"a": [Event(0, 10, "dog", 1.0), Event(20, 30, "dog", 1.0)]}
    found = {"a": [Event(0, 10, "dog", 0.9), Event(20, 30, "dog", 0.6), Event(40, 50, "dog", 0.3)]}
    assert best_threshold(truth, found) == (0.6, 1.0)
    assert best_threshold(truth, {"a": [Event(40, 50, "dog", 0.3)]}) == (0.0, 0.0)
