"""Where anchors, agreement and activation of a CLASP lie, on videos made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extractors.windows import WindowGrid
from model.anchors import Anchors, select_anchors
from model.localisation import VideoActivation
from pipeline.core.events import Event
from workflows.weak.anchor_places import AnchorPlaces

GRID = WindowGrid()  # step k has its centre at k / 4 + 0.5 s
CLASSES = ("cat", "dog")


def said(
    agreement: list[float], dog: list[float], valid: list[bool] | None = None
) -> VideoActivation:
    steps = len(agreement)
    activation = torch.zeros(steps, 2, dtype=torch.half)
    activation[:, 1] = torch.tensor(dog)
    there = torch.tensor(valid or [True] * steps)
    return VideoActivation(activation, torch.ones(2), torch.tensor(agreement).half(), there)


def chosen(score: list[float]) -> Anchors:
    return select_anchors(
        torch.tensor([score]), torch.ones(1, len(score), dtype=torch.bool), window=4, per_window=1
    )


def test_each_figure_is_what_it_says_by_hand() -> None:
    places = AnchorPlaces()
    agreement = [0.9, 0.1, 0.2, 0.3, 0.4, 0.8, 0.0, 0.0]
    dog = [0.5, 0.5, 0.5, 0.4, 0.6, 0.5, 0.1, 0.1]
    truth = [Event(0.4, 1.0, "dog", 1.0)]  # steps 0, 1, 2
    places.add(said(agreement, dog), chosen(agreement), truth, CLASSES, GRID)
    found = places.to_json()
    assert found["videos"] == 1 and found["true_steps"] == pytest.approx(3 / 8)
    assert found["global_anchors_true"] == 1.0, "step 0"
    assert found["local_anchors_true"] == 0.5, "steps 0 and 5"
    # Against 0.3, 0.4, 0.8, 0, 0: five, two and two of five are lower.
    assert found["agreement_auc"] == pytest.approx((5 + 2 + 2) / 15)
    # 0.5 against 0.4, 0.6, 0.5, 0.1, 0.1: three lower, one equal.
    assert found["activation_auc"] == pytest.approx(3.5 / 5, abs=1e-3)
    assert found["activation_inside"] == pytest.approx(0.5, abs=1e-3)
    assert found["activation_outside"] == pytest.approx(1.7 / 5, abs=1e-3)
    assert "38%" in places.format_table() and "0.60" in places.format_table()


def test_steps_without_both_modalities_count_nowhere() -> None:
    one, other = AnchorPlaces(), AnchorPlaces()
    truth = [Event(0.4, 0.8, "dog", 1.0)]
    one.add(said([0.9, 0.1, 0.2], [0.9, 0.1, 0.2]), None, truth, CLASSES, GRID)
    padded = said([0.9, 0.1, 0.2, 7.0], [0.9, 0.1, 0.2, 7.0], [True, True, True, False])
    other.add(padded, None, truth, CLASSES, GRID)
    assert one.to_json() == other.to_json()
    assert one.to_json()["global_anchors_true"] is None and "-" in one.format_table()


@pytest.mark.parametrize("truth", [[], [Event(0.0, 99.0, "dog", 1.0)]], ids=["nothing", "all"])
def test_a_video_of_one_kind_of_steps_tells_nothing_of_places(truth: list[Event]) -> None:
    places = AnchorPlaces()
    places.add(said([0.9, 0.1], [0.9, 0.1]), chosen([0.9, 0.1]), truth, CLASSES, GRID)
    found = places.to_json()
    assert found.pop("videos") == 0 and set(found.values()) == {None}
    assert "means over 0 videos" in places.format_table()


def test_the_area_is_that_of_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, 40) / 8
    inside = rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in values[inside] for b in values[~inside]]
    times = GRID.centres(40)
    truth = [Event(t - 0.01, t + 0.01, "dog", 1.0) for t in times[inside]]
    places = AnchorPlaces()
    places.add(said(values.tolist(), values.tolist()), None, truth, CLASSES, GRID)
    assert places.to_json()["agreement_auc"] == pytest.approx(np.mean(pairs))
