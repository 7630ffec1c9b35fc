"""From points to events: thresholds, limits, activation, and where pieces start."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from model.decoding import DecodingSettings, candidates, decode, piece_starts, step_activation
from model.loco import Prediction
from model.points import make_points


def prediction(logits: torch.Tensor, distances: torch.Tensor, lengths: list[int]) -> Prediction:
    steps = lengths[0]
    nothing, all_steps = torch.zeros(1, 2, steps), torch.ones(1, steps, dtype=torch.bool)
    return Prediction(
        make_points(lengths), tuple(lengths), logits[None], distances[None],
        torch.ones(1, sum(lengths), dtype=torch.bool), nothing, nothing, all_steps,
    )  # fmt: skip


def test_distances_are_in_strides_of_the_level() -> None:
    logits = torch.full((12, 2), -20.0)
    distances = torch.zeros(12, 2, 2)
    logits[3, 1], distances[3, 1] = 2.0, torch.tensor([1.5, 2.0])  # level 0, at step 3
    logits[9, 0], distances[9, 0] = 1.0, torch.tensor([0.5, 1.0])  # level 1, at step 2
    found = decode(prediction(logits, distances, [8, 4]))[0]
    torch.testing.assert_close(found.segments, torch.tensor([[1.5, 5.0], [1.0, 4.0]]))
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0]).sigmoid())


def test_short_intervals_masked_points_and_weak_scores_are_dropped() -> None:
    logits = torch.tensor([[2.0], [2.0], [2.0], [-8.0]])
    distances = torch.tensor([[[1.0, 1.0]], [[0.02, 0.02]], [[1.0, 1.0]], [[1.0, 1.0]]])
    given = prediction(logits, distances, [4])
    given.mask[0, 2] = False
    found = candidates(given, 0, DecodingSettings())
    torch.testing.assert_close(found.segments, torch.tensor([[-1.0, 1.0]]))


def test_each_level_keeps_its_best_candidates() -> None:
    logits = torch.linspace(-2, 2, 12)[:, None]
    distances = torch.ones(12, 1, 2)
    found = candidates(
        prediction(logits, distances, [8, 4]), 0, replace(DecodingSettings(), per_level=2)
    )
    torch.testing.assert_close(found.scores, logits[[7, 6, 11, 10], 0].sigmoid())


def test_no_candidate_gives_no_detection() -> None:
    found = decode(prediction(torch.full((4, 3), -20.0), torch.ones(4, 3, 2), [4]))[0]
    assert found.segments.shape == (0, 2)
    assert len(found.scores) == len(found.labels) == 0


@pytest.mark.parametrize("steps", [1, 64, 65, 200, 1000])
@pytest.mark.parametrize(("chunk", "overlap", "alignment"), [(64, 16, 8), (64, 0, 1), (64, 63, 1)])
def test_pieces_cover_everything_and_share_at_least_the_overlap(
    steps: int, chunk: int, overlap: int, alignment: int
) -> None:
    settings = DecodingSettings(chunk=chunk, overlap=overlap)
    starts = piece_starts(steps, settings, alignment=alignment)
    assert starts[0] == 0
    assert starts[-1] + chunk >= steps
    for one, two in pairwise(starts):
        assert one + chunk - two >= overlap
        assert two % alignment == 0
        assert one + chunk < steps  # no piece more than needed


@pytest.mark.parametrize(("chunk", "overlap"), [(64, 64), (64, 100), (0, 0), (64, -1)])
def test_pieces_that_cannot_advance_are_refused(chunk: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot share"):
        DecodingSettings(chunk=chunk, overlap=overlap)


def test_activation_is_the_best_of_all_points_over_a_step() -> None:
    logits = torch.full((8, 2), -20.0)  # 5 steps: levels of 5 and 3 points
    logits[1, 0], logits[6, 0], logits[7, 1] = 0.0, 2.0, 1.0
    given = prediction(logits, torch.ones(8, 2, 2), [5, 3])
    found = step_activation(given, 0)
    at = torch.tensor([0.0, 1.0, 2.0]).sigmoid()
    expected = torch.tensor([[0, 0], [at[0], 0], [at[2], 0], [at[2], 0], [0, at[1]]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    given.mask[0, 6] = False
    assert step_activation(given, 0)[2:4, 0].max() < 1e-8
