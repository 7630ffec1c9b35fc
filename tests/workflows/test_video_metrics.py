"""Average precision of whole videos."""

import numpy as np
import pytest

from workflows.weak.video_metrics import video_precision


def test_precision_of_each_class_over_the_ranked_videos() -> None:
    truth = {"a": ["dog"], "b": [], "c": ["dog", "bell"], "d": []}
    scores = {
        "a": np.array([0.2, 0.1, 0.5]),
        "b": np.array([0.3, 0.8, 0.5]),
        "c": np.array([0.9, 0.7, 0.5]),
        "d": np.array([0.1, 0.0, 0.5]),
    }
    found = video_precision(truth, scores, ("dog", "bell", "drum"))
    # dog: c right, b wrong, a right; bell: b wrong, c right. No video has a drum.
    assert found == {"dog": pytest.approx((1 + 2 / 3) / 2), "bell": pytest.approx(1 / 2)}


def test_the_order_of_the_videos_never_matters_even_between_equal_scores() -> None:
    truth = {"b": ["dog"], "a": [], "c": []}
    scores = {name: np.array([0.5]) for name in truth}
    back = dict(reversed(truth.items()))
    assert video_precision(truth, scores, ["dog"]) == video_precision(back, scores, ["dog"])
