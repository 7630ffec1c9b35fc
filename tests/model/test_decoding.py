"""From points to events: thresholds, limits, and sequences of any length in pieces."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from model.decoding import (
    DecodingSettings,
    candidates,
    decode,
    detect_sequence,
    piece_starts,
    sequence_candidates,
)
from model.loco import LoCo, Prediction
from model.points import make_points

WIDTH, CLASSES = 16, 4


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


def small_model(*, unimodal_blocks: int = 1) -> LoCo:
    torch.manual_seed(0)
    model = LoCo(
        vision_dim=12, audio_dim=6, classes=CLASSES, channels=WIDTH, decoder_channels=WIDTH,
        unimodal_blocks=unimodal_blocks, max_seq_len=64, drop_path=0.0,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("drop_attention.scale", "drop_feed.scale")):
                value.fill_(0.5)
    return model.eval()


def features(steps: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(steps, dtype=torch.bool)
    return (
        torch.randn(12, steps, generator=generator),
        torch.randn(6, steps, generator=generator),
        mask,
        mask.clone(),
    )


def test_a_long_sequence_in_pieces_has_the_candidates_of_the_whole() -> None:
    model = small_model(unimodal_blocks=0)  # its answer depends on near steps only
    for name in ("vision", "audio"):  # places are counted from the start of each piece
        model.embed[name].table = torch.zeros(1, WIDTH, 2000)
    settings = DecodingSettings(per_level=100_000, chunk=1536, overlap=1024)
    starts = piece_starts(2000, settings, alignment=model.alignment)
    assert len(starts) == 2
    with torch.inference_mode():
        pieces = sequence_candidates(model, features(2000), starts, settings=settings)
        settings = replace(settings, chunk=2000)
        whole = sequence_candidates(model, features(2000), [0], settings=settings)
    assert torch.equal(pieces.labels.bincount(), whole.labels.bincount())
    for ours, theirs in ((pieces.scores, whole.scores), (pieces.segments, whole.segments)):
        torch.testing.assert_close(ours.sort(0).values, theirs.sort(0).values, rtol=0, atol=1e-3)


def test_the_limits_hold_for_each_piece() -> None:
    settings = DecodingSettings(max_total=5, chunk=256, overlap=0)
    found = detect_sequence(small_model(), *features(256 * 3), settings=settings)
    assert len(found.scores) == 15


def test_half_an_hour_goes_through_a_model_of_64_steps() -> None:
    found = detect_sequence(small_model(), *features(7200))
    assert found.segments.isfinite().all()
    assert found.segments[:, 1].max() > 7100  # the last seconds are looked at


def test_a_sequence_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        detect_sequence(small_model(), *features(0))
