"""Distances without classes, and the switches of the losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.assignment import assign
from model.decoding import decode
from model.loco import LoCo, Losses
from model.losses import focal_loss, smooth_targets
from model.points import Points, make_points


def network(**choices: object) -> LoCo:
    torch.manual_seed(0)
    return LoCo(
        vision_dim=6, audio_dim=5, classes=3, channels=8, heads=2, levels=3, window=4,
        decoder_channels=8, max_seq_len=32, **choices,  # type: ignore[arg-type]
    )  # fmt: skip


def losses(model: LoCo, segments: Tensor, labels: Tensor) -> Losses:
    torch.manual_seed(1)
    mask = torch.ones(1, 32, dtype=torch.bool)
    prediction = model.eval()(torch.randn(1, 6, 32), torch.randn(1, 5, 32), mask, mask)
    return model.loss(prediction, [segments], [labels])


@pytest.mark.parametrize("case", range(10))
def test_without_classes_assignment_is_the_reference_assignment(golden: Path, case: int) -> None:
    arrays = np.load(golden / "labels" / "labels_unav.npz")
    target, distance = assign(
        Points(*torch.from_numpy(arrays[f"c{case}/points"]).unbind(1)),
        torch.from_numpy(arrays[f"c{case}/segments"]),
        torch.from_numpy(arrays[f"c{case}/labels"]),
        classes=int(arrays[f"c{case}/num_classes"]),
        class_aware=False,
    )
    np.testing.assert_array_equal(target.numpy(), arrays[f"c{case}/agnostic/cls"])
    # The reference also has distances at points without an event, which no loss sees.
    used = target.any(1)
    theirs = arrays[f"c{case}/agnostic/reg"][used.numpy()]
    for label in range(target.shape[1]):
        mine = distance[used, label][target[used, label] > 0]
        np.testing.assert_allclose(
            mine.numpy(), theirs[(target[used, label] > 0).numpy()], rtol=1e-6, atol=1e-6
        )


def test_without_classes_a_point_answers_for_its_shortest_event_only() -> None:
    segments, labels = torch.tensor([[0.5, 3.9], [0.0, 3.95]]), torch.tensor([0, 1])
    points = make_points([8])
    aware, _ = assign(points, segments, labels, classes=2)
    agnostic, _ = assign(points, segments, labels, classes=2, class_aware=False)
    assert aware[2].tolist() == [1, 1]
    assert agnostic[2].tolist() == [1, 0]


def test_without_classes_all_classes_of_a_point_share_one_pair_of_distances() -> None:
    mask = torch.ones(1, 32, dtype=torch.bool)
    model = network(class_aware=False).eval()
    prediction = model(torch.randn(1, 6, 32), torch.randn(1, 5, 32), mask, mask)
    assert prediction.distances.shape == (*prediction.logits.shape, 2)
    assert torch.equal(prediction.distances[..., 0, :], prediction.distances[..., 2, :])
    found = decode(prediction)[0]
    assert len(found.segments)
    saved = sum(value.numel() for value in network().parameters()) - sum(
        value.numel() for value in model.parameters()
    )
    assert saved == 4 * (8 * 3 + 1)  # two distances in place of six


def test_a_point_with_two_classes_of_one_length_pays_for_its_interval_once() -> None:
    one = torch.tensor([[4.2, 9.4]])
    twice = losses(network(class_aware=False), one.repeat(2, 1), torch.tensor([0, 2]))
    once = losses(network(class_aware=False), one, torch.tensor([0]))
    torch.testing.assert_close(twice.intervals, once.intervals)
    assert twice.classes > once.classes
    aware = [
        losses(network(), one.repeat(count, 1), torch.tensor([0, 2][:count])) for count in (1, 2)
    ]
    assert aware[1].intervals > aware[0].intervals


def test_label_smoothing_moves_targets_as_the_public_code_does() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(smooth_targets(targets, 0.1), torch.tensor([[0.925, 0.025, 0.025]]))
    assert torch.equal(smooth_targets(targets, 0.0), targets)
    events = torch.tensor([[4.2, 9.4]]), torch.tensor([1])
    plain, smooth = (losses(network(label_smoothing=share), *events) for share in (0.0, 0.1))
    # Untrained, all scores are near 0: what smoothing takes from the event's points weighs more
    assert smooth.classes < plain.classes
    assert torch.equal(smooth.intervals, plain.intervals)


def test_each_weight_of_the_losses_reaches_its_term() -> None:
    events = torch.tensor([[4.2, 9.4]]), torch.tensor([1])
    plain = losses(network(), *events)
    half = losses(network(interval_weight=0.5), *events)
    torch.testing.assert_close(plain.total - half.total, 0.5 * plain.intervals)
    gamma = losses(network(focal_gamma=0.0), *events)
    assert gamma.classes > plain.classes
    alpha = losses(network(focal_alpha=-1.0), *events)
    assert alpha.classes > plain.classes
    logits, targets = torch.randn(4, 3), torch.eye(4)[:, :3]
    torch.testing.assert_close(
        focal_loss(logits, targets, alpha=-1.0, gamma=0.0),
        torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none"),
    )


def test_the_prior_is_what_an_untrained_network_gives_each_class() -> None:
    bias = network(prior=0.2).head.classify.out.conv.bias
    assert bias is not None
    torch.testing.assert_close(bias.sigmoid(), torch.full((3,), 0.2))


def test_the_count_of_positive_points_follows_its_momentum() -> None:
    model = network(normaliser=100.0, normaliser_momentum=0.5)
    assert model.normaliser(torch.tensor(50)).item() == 75.0


def test_the_decoder_may_keep_its_window_while_the_pyramids_changes() -> None:
    def radii(model: LoCo) -> tuple[int, int]:
        pyramid = model.pyramid.vision[0].mixer.attend.radius
        return pyramid, model.decoder.blocks[0].mixer.radius  # type: ignore[return-value]

    assert radii(network()) == (2, 2)
    assert radii(network(decoder_window=12)) == (2, 6)
