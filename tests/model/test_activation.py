"""From activation to segments, against the definitions written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.activation import Recipe, candidates, segments_from_activation, smooth


@given(hnp.arrays(np.float32, (11, 2), elements=st.floats(0, 1, width=32)), st.integers(1, 15))
def test_smoothing_is_the_mean_over_the_valid_steps_around(values: np.ndarray, width: int) -> None:
    valid = np.array([1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1], dtype=bool)
    found = smooth(values, valid, width)
    for t in range(11):
        near = [
            k for k in range(t - width // 2, t - width // 2 + width) if 0 <= k < 11 and valid[k]
        ]
        expected = values[near].mean(axis=0) if valid[t] else np.zeros(2)
        assert found[t] == pytest.approx(expected, abs=1e-5)


def test_smoothing_over_one_step_changes_nothing_and_an_empty_video_stays_empty() -> None:
    values = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    assert np.allclose(smooth(values, np.ones(5, bool), 1), values)
    assert smooth(np.zeros((0, 3), np.float32), np.zeros(0, bool), 5).shape == (0, 3)


@given(hnp.arrays(np.float32, (11, 2), elements=st.floats(0, 1, width=32)), st.integers(1, 15))
def test_the_other_smoothing_is_the_median_of_the_valid_steps_around(
    values: np.ndarray, width: int
) -> None:
    valid = np.array([1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1], dtype=bool)
    found = smooth(values, valid, width, by="median")
    for t in range(11):
        near = [
            k for k in range(t - width // 2, t - width // 2 + width) if 0 <= k < 11 and valid[k]
        ]
        expected = np.median(values[near], axis=0) if valid[t] else np.zeros(2)
        assert found[t] == pytest.approx(expected, abs=1e-6)


def test_a_median_drops_single_steps_and_keeps_borders_where_they_are() -> None:
    values = np.zeros((30, 1), np.float32)
    values[10:20], values[14], values[25] = 0.9, 0.1, 0.9
    found = smooth(values, np.ones(30, bool), 5, by="median")
    assert np.flatnonzero(found[:, 0] > 0.5).tolist() == list(range(10, 20))
    assert set(np.unique(found)) == {np.float32(0.0), np.float32(0.9)}
    mean = smooth(values, np.ones(30, bool), 5)
    assert len(np.unique(mean)) > 2, "a mean makes slopes of borders"


@pytest.mark.parametrize("steps", [0, 4])
def test_a_video_without_a_valid_step_stays_empty_whatever_smooths_it(steps: int) -> None:
    found = smooth(np.ones((steps, 3), np.float32), np.zeros(steps, bool), 5, by="median")
    assert found.shape == (steps, 3)
    assert not found.any()


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="filter='mode' is none of mean, median"):
        Recipe(filter="mode")


def test_candidates_are_the_runs_of_all_thresholds_with_their_contrast() -> None:
    x = np.float32([0, 0, 0.3, 0.6, 0.6, 0.3, 0, 0, 0.9])
    begin, end, score = candidates(x, thresholds=(0.2, 0.5, 0.8), outer=0.5)
    runs = dict(zip(zip(begin.tolist(), end.tolist(), strict=True), score.tolist(), strict=True))
    assert set(runs) == {(2, 6), (3, 5), (8, 9)}
    assert runs[2, 6] == pytest.approx(0.45 - 0.0)
    assert runs[3, 5] == pytest.approx(0.6 - 0.3), "one step on either side, half its length"
    assert runs[8, 9] == pytest.approx(0.9), "what lies beyond the video does not count"


def test_without_an_outer_width_a_run_is_compared_with_nothing() -> None:
    x = np.float32([0.4, 0.4, 0.8, 0.8, 0.4])
    *_, alone = candidates(x, thresholds=(0.5,), outer=0)
    *_, contrast = candidates(x, thresholds=(0.5,), outer=0.01)
    assert alone == pytest.approx([0.8]) and contrast == pytest.approx([0.4]), "one step at least"


def test_a_run_of_the_first_step_alone_and_of_the_whole_video_are_found() -> None:
    begin, end, _ = candidates(np.float32([0.9, 0, 0]), thresholds=(0.5,), outer=0.25)
    assert (begin.tolist(), end.tolist()) == ([0], [1])
    begin, end, score = candidates(np.float32([0.9] * 4), thresholds=(0.5,), outer=0.25)
    assert (begin.tolist(), end.tolist()) == ([0], [4]) and score[0] == pytest.approx(0.9)


def plateau(steps: int, *events: tuple[int, int, int, float], classes: int = 3) -> np.ndarray:
    activation = np.zeros((steps, classes), dtype=np.float32)
    for first, end, index, level in events:
        activation[first:end, index] = level
    return activation


def test_segments_carry_class_and_half_step_borders_best_first() -> None:
    found = segments_from_activation(plateau(40, (3, 9, 2, 0.6), (20, 30, 0, 0.9)), Recipe())
    assert found.classes[:2].tolist() == [0, 2]
    assert (found.starts[0], found.ends[0]) == (19.5, 29.5)
    assert (found.starts[1], found.ends[1]) == (2.5, 8.5)
    assert np.all(np.diff(found.scores) <= 0)


def test_overlapping_events_of_two_classes_are_both_found() -> None:
    found = segments_from_activation(plateau(30, (5, 20, 0, 0.8), (10, 25, 1, 0.8)), Recipe())
    best = {int(c): (s, e) for s, e, c in zip(found.starts, found.ends, found.classes, strict=True)}
    assert best == {0: (4.5, 19.5), 1: (9.5, 24.5)}


def test_nothing_above_the_lowest_threshold_is_nothing() -> None:
    for activation in (plateau(30, (5, 9, 0, 0.2)), plateau(0), np.zeros((4, 0), np.float32)):
        assert len(segments_from_activation(activation, Recipe())) == 0


def test_a_long_video_gives_the_segments_of_its_parts() -> None:
    """Suppression works in blocks; where a block ends must not show."""
    random = np.random.default_rng(3)
    part = smooth(random.random((400, 2), dtype=np.float32) ** 2, np.ones(400, bool), 5)
    part[-20:] = part[:20] = 0  # surroundings of one part must not reach into the next
    alone = segments_from_activation(part, Recipe())
    together = segments_from_activation(np.concatenate([part] * 40), Recipe())
    assert len(together) == 40 * len(alone)
    first = together.ends < 400

    def rows(starts: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return np.array(sorted(zip(starts, classes, scores.round(9), strict=True)))

    found = rows(together.starts[first], together.classes[first], together.scores[first])
    assert found == pytest.approx(rows(alone.starts, alone.classes, alone.scores), abs=1e-8)


@pytest.mark.parametrize(
    "wrong", [{"smoothing": 0}, {"outer": -0.1}, {"sigma": 0.0}, {"thresholds": ()}]
)
def test_a_recipe_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Recipe(**wrong)


def test_the_score_of_the_video_ranks_between_videos_and_leaves_weak_classes_out() -> None:
    activation = plateau(40, (3, 9, 2, 0.6), (20, 30, 0, 0.6))
    video = np.array([0.1, 0.0, 0.9])
    found = segments_from_activation(activation, Recipe(video_weight=0.5), video_scores=video)
    plain = segments_from_activation(activation, Recipe())
    assert found.classes[0] == 2 and found.scores[0] == pytest.approx(
        (plain.scores[0] + 0.45) / 1.5
    )
    strict = Recipe(min_video_score=0.5)
    assert set(segments_from_activation(activation, strict, video_scores=video).classes) == {2}
    low = segments_from_activation(activation, strict, video_scores=video / 10)
    assert set(low.classes) == {2}, "where no class is strong enough, the best one stays"
    with pytest.raises(ValueError, match="video_scores"):
        segments_from_activation(activation, strict)
