"""What is not certain: weights, targets and stretches that are left out of the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.assignment import assign_batch
from model.doubt import EVENT_TARGETS, Doubt, batch_doubts, doubt_points
from model.loco import LoCo, Losses, Prediction
from model.losses import focal_loss
from model.points import make_points

POINTS = make_points((32, 16, 8))
CLASSES = 3
NOTHING = (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))


def doubt(
    *confidence: float,
    unsure: tuple[tuple[float, float, int], ...] = (),
    targets: str = "hard",
) -> Doubt:
    places = torch.tensor([entry[:2] for entry in unsure]).reshape(-1, 2)
    kinds = torch.tensor([entry[2] for entry in unsure], dtype=torch.long)
    return Doubt.of(torch.tensor(confidence), places, kinds, targets=targets)


def network() -> LoCo:
    torch.manual_seed(0)
    return LoCo(
        vision_dim=6, audio_dim=5, classes=CLASSES, channels=16, heads=2, decoder_channels=16,
        unimodal_blocks=0, levels=3, max_seq_len=32, drop_path=0.0,
    )  # fmt: skip


def predict(model: LoCo) -> Prediction:
    generator = torch.Generator().manual_seed(1)
    there = torch.ones(2, 32, dtype=torch.bool)
    vision, audio = (torch.randn(2, width, 32, generator=generator) for width in (6, 5))
    return model(vision, audio, there, there)


SEGMENTS = [torch.tensor([[3.5, 9.2], [12.0, 27.0]]), torch.tensor([[4.0, 20.0]])]
LABELS = [torch.tensor([0, 2]), torch.tensor([1])]


def losses(model: LoCo, *doubts: Doubt) -> Losses:
    torch.manual_seed(2)
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    return fresh.train().loss(predict(fresh), SEGMENTS, LABELS, list(doubts) or None)


@pytest.mark.parametrize("targets", EVENT_TARGETS)
def test_labels_of_full_confidence_are_labels_without_doubt(targets: str) -> None:
    model = network()
    usual = losses(model)
    same = losses(model, doubt(1.0, 1.0, targets=targets), Doubt.none(1))
    assert same.classes.item() == pytest.approx(usual.classes.item(), rel=1e-5)
    assert same.intervals.item() == pytest.approx(usual.intervals.item(), rel=1e-5)
    assert same.positives == usual.positives


def gradient(*doubts: Doubt) -> Tensor:
    """Of the classification loss at every point, (B, P, K)."""
    model = network().train()
    said = predict(model)
    said.logits.retain_grad()
    model.loss(said, SEGMENTS, LABELS, list(doubts) or None).classes.backward()
    assert said.logits.grad is not None
    return said.logits.grad


def test_an_unsure_stretch_teaches_nothing_of_its_class_on_any_level() -> None:
    free = doubt(1.0, 1.0, unsure=((14.0, 18.0, 1),))
    found, usual = gradient(free, Doubt.none(1)), gradient()
    points = make_points((32, 16, 8))
    inside = (points.times >= 14) & (points.times <= 18)
    assert set(points.strides[inside].tolist()) == {1.0, 2.0, 4.0}
    assert found[0, inside, 1].eq(0).all() and usual[0, inside, 1].ne(0).all()
    others = found.clone(), usual.clone()
    for value in others:
        value[0, inside, 1] = 0
    assert torch.allclose(*others, rtol=1e-4, atol=1e-8), "other points, classes and videos"


def test_an_unsure_stretch_inside_an_event_leaves_its_ends_to_be_learned() -> None:
    free = doubt(1.0, 1.0, unsure=((12.0, 27.0, 2),))
    found = losses(network(), free, Doubt.none(1))
    assert found.intervals.item() == pytest.approx(losses(network()).intervals.item(), rel=1e-5)
    assert gradient(free, Doubt.none(1))[0, 12:28, 2].eq(0).all()


def test_weights_and_targets_are_those_of_the_event_that_gives_the_distances() -> None:
    """Of two events of a class at one point, the surer one: it is the later in the list."""
    segments = [torch.tensor([[2.0, 12.0], [4.0, 13.0]])]
    labels = [torch.tensor([1, 1])]
    for targets in ("weighted", "soft"):
        found = doubt_points(
            POINTS, segments, labels, [doubt(0.25, 0.75, targets=targets)], classes=CLASSES
        )
        hard, distance = assign_batch(POINTS, segments, labels, classes=CLASSES)
        positive = hard > 0
        assert torch.equal(found.target > 0, positive)
        start = POINTS.times[:, None] - distance[0, ..., 0] * POINTS.strides[:, None]
        of_second = positive & (start == 4.0)
        assert of_second.any() and (positive & ~of_second).any()
        worth = torch.where(of_second, 0.75, 0.25)[positive]
        assert torch.equal(found.interval_weight[positive], worth)
        assert found.interval_weight[~positive].eq(0).all()
        one = torch.ones_like(worth)
        assert torch.equal(found.target[positive], worth if targets == "soft" else one)
        assert torch.equal(found.weight[positive], one if targets == "soft" else worth)
        assert found.weight[~positive].eq(1).all(), "background is believed"


def test_half_the_confidence_is_half_the_weight_by_hand() -> None:
    model, half = network(), doubt(0.5, 0.5, targets="weighted")
    segments, labels = [SEGMENTS[0]] * 2, [LABELS[0]] * 2
    said = predict(model)
    weak = model.eval().loss(said, segments, labels, [half, half])
    full = model.loss(said, segments, labels)
    assert weak.intervals.item() == pytest.approx(full.intervals.item() / 2, rel=1e-5)
    assert 2 * weak.positives == full.positives
    hard, _ = assign_batch(said.points, segments, labels, classes=CLASSES)
    terms = focal_loss(said.logits, hard)
    expected = (terms.sum() - terms[hard > 0].sum() / 2) / model.normaliser.count
    assert weak.classes.item() == pytest.approx(expected.item(), rel=1e-5)


def test_events_between_all_points_count_where_the_nearest_point_is_forced() -> None:
    segments, labels = [torch.tensor([[4.2, 4.8]])], [torch.tensor([0])]
    said = [doubt(0.5, targets="soft")]
    free = doubt_points(POINTS, segments, labels, said, classes=CLASSES)
    forced = doubt_points(POINTS, segments, labels, said, classes=CLASSES, nearest=True)
    assert free.target.sum() == 0 and forced.target.sum() == 0.5


@pytest.mark.parametrize("target", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_the_soft_focal_loss_is_least_at_its_target(target: float) -> None:
    logits = torch.linspace(-9, 9, 1801)
    soft = focal_loss(logits, torch.full_like(logits, target), soft=True)
    assert logits[soft.argmin()].sigmoid().item() == pytest.approx(target, abs=0.01)
    if target in (0.0, 1.0):
        assert torch.allclose(soft, focal_loss(logits, torch.full_like(logits, target)), atol=1e-6)


def test_a_piece_keeps_the_doubt_about_what_it_keeps() -> None:
    whole = doubt(0.2, 0.9, unsure=((0.0, 4.0, 0), (8.0, 30.0, 1)), targets="soft")
    piece = whole.cut(10, 12, torch.tensor([False, True]))
    assert piece.target.tolist() == pytest.approx([0.9]) and piece.weight.tolist() == [1.0]
    assert piece.segments.tolist() == [[0.0, 12.0]] and piece.labels.tolist() == [1]


def test_a_batch_of_certain_videos_has_no_doubt() -> None:
    assert batch_doubts([None, None], [2, 1]) is None
    mixed = batch_doubts([None, doubt(0.5)], [2, 1])
    assert mixed is not None and mixed[0].target.tolist() == [1.0, 1.0]


def test_a_video_without_events_may_be_unsure_everywhere() -> None:
    everything = tuple((0.0, 31.0, number) for number in range(CLASSES))
    found = doubt_points(
        POINTS, [NOTHING[0]], [NOTHING[1]], [doubt(unsure=everything)], classes=CLASSES
    )
    assert found.weight.eq(0).all() and found.target.eq(0).all()


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown targets 'fuzzy'"):
        doubt(0.5, targets="fuzzy")
