"""Targets of a batch are those of its videos, one by one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model.assignment import TIE, assign, assign_batch, count_missed, matches, owners
from model.points import Points, make_points

POINTS = make_points([64, 32, 16, 8])
CLASSES = 4


def random_events(counts: list[int], *, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    segments, labels = [], []
    for count in counts:
        start = torch.rand(count, generator=generator) * 60
        length = torch.rand(count, generator=generator) ** 3 * 40 + 0.3
        segments.append(torch.stack([start, start + length], dim=1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    return segments, labels


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("force_nearest", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_batch_has_the_targets_of_its_videos(
    seed: int, force_nearest: bool, class_aware: bool
) -> None:
    segments, labels = random_events([3, 0, 12, 1, 7], seed=seed)
    options = {"force_nearest": force_nearest, "class_aware": class_aware, "classes": CLASSES}
    target, distance = assign_batch(POINTS, segments, labels, **options)
    assert target.shape == (5, 120, CLASSES)
    assert distance.shape == (5, 120, CLASSES, 2)
    assert target[2].any()
    for row, (events, kinds) in enumerate(zip(segments, labels, strict=True)):
        single = assign(POINTS, events, kinds, **options)
        assert torch.equal(target[row], single[0])
        assert torch.equal(distance[row], single[1])


def expected_by_hand(
    points: Points, segments: Tensor, labels: Tensor, *, class_aware: bool
) -> tuple[Tensor, Tensor]:
    """UnAV's two rules, a point at a time."""
    target = torch.zeros(len(points.times), CLASSES)
    distance = torch.zeros(len(points.times), CLASSES, 2)
    match = matches(points, segments)
    lengths = segments[:, 1] - segments[:, 0]
    for point, (time, stride) in enumerate(zip(points.times, points.strides, strict=True)):
        events = match[point].nonzero()[:, 0].tolist()
        if not class_aware and events:
            shortest = min(events, key=lambda event: float(lengths[event]))
            events = [e for e in events if lengths[e] <= lengths[shortest] + TIE]
        for event in events:  # a later event of a class writes over an earlier one
            source = event if class_aware else shortest
            start, end = segments[source]
            target[point, labels[event]] = 1.0
            distance[point, labels[event]] = torch.stack([time - start, end - time]) / stride
    return target, distance


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_point_answers_for_events_by_the_public_rules(seed: int, class_aware: bool) -> None:
    (segments,), (labels,) = random_events([15], seed=seed)
    found = assign(POINTS, segments, labels, classes=CLASSES, class_aware=class_aware)
    expected = expected_by_hand(POINTS, segments, labels, class_aware=class_aware)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_of_equally_short_events_the_first_gives_the_distances() -> None:
    segments = torch.tensor([[10.0, 14.0], [9.0, 13.0], [0.0, 63.0]])
    target, distance = assign(
        POINTS, segments, torch.tensor([0, 1, 2]), classes=CLASSES, class_aware=False
    )
    assert target[12].tolist() == [1, 1, 0, 0]
    assert distance[12, 0].tolist() == distance[12, 1].tolist() == [2.0, 2.0]


def test_a_batch_without_any_event_has_empty_targets() -> None:
    none = [torch.zeros(0, 2)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
    target, distance = assign_batch(POINTS, *none, classes=CLASSES)
    assert target.shape == (2, 120, CLASSES)
    assert not target.any()
    assert not distance.any()
    assert count_missed(POINTS, none[0], torch.ones(2, 120, dtype=torch.bool)) == 0


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_wrong_class_number_in_any_video_is_named(wrong: int) -> None:
    segments, labels = random_events([2, 3], seed=0)
    labels[1][1] = wrong
    with pytest.raises(ValueError, match=rf"\[{wrong}\] do not all lie in 0\.\.3"):
        assign_batch(POINTS, segments, labels, classes=CLASSES)


def test_every_event_knows_its_video() -> None:
    segments, _ = random_events([2, 0, 3], seed=0)
    assert owners(segments).tolist() == [0, 0, 2, 2, 2]


def test_an_event_is_missed_where_only_invalid_points_would_answer() -> None:
    segments = [torch.tensor([[2.2, 2.6], [1.0, 4.0]]), torch.tensor([[20.0, 24.0]])]
    everywhere = torch.ones(2, 120, dtype=torch.bool)
    assert count_missed(POINTS, segments, everywhere) == 1  # between two points
    short = everywhere.clone()
    short[1, matches(POINTS, segments[1])[:, 0]] = False
    assert count_missed(POINTS, segments, short) == 2
    assert count_missed(POINTS, segments, ~everywhere) == 3


def test_levels_share_the_lengths_out_among_them() -> None:
    bounds = POINTS.low.unique().tolist()
    for low, high in pairwise(bounds):
        length = (low + high) / 2 * 1.5
        event = torch.tensor([[31.0 - length / 2, 31.0 + length / 2]])
        levels = POINTS.strides[matches(POINTS, event)[:, 0]].unique()
        assert len(levels) in (1, 2)  # the larger distance of its points runs from half to whole


@pytest.mark.parametrize("class_aware", [True, False])
def test_points_in_padding_answer_for_nothing(class_aware: bool) -> None:
    """An event in the last half second may lie behind the last step of its video."""
    steps = 19
    valid = torch.cat([POINTS.times[None] < steps, torch.ones(1, len(POINTS.times)) > 0])
    segments = [torch.tensor([[18.2, 19.4], [2.0, 9.0]])] * 2
    labels = [torch.tensor([0, 1])] * 2
    options = {"classes": CLASSES, "class_aware": class_aware, "valid": valid}
    left_out, _ = assign_batch(POINTS, segments, labels, **options)
    assert not left_out[~valid].any()
    assert left_out[0].any(0).tolist()[:2] == [False, True]
    assert left_out[1].any(0).tolist()[:2] == [True, True], "19 exists in the other video"
    forced, distance = assign_batch(POINTS, segments, labels, **options, force_nearest=True)
    assert not forced[~valid].any()
    place = forced[0, :, 0].nonzero().flatten().tolist()
    assert [POINTS.times[point] for point in place] == [18.0]
    assert forced.any(1)[:, :2].all()
    assert distance[0, place[0], 0].tolist() == pytest.approx([0.0, 1.4])


def test_an_event_of_a_video_without_points_stays_without_one() -> None:
    nothing = torch.zeros(1, len(POINTS.times), dtype=torch.bool)
    target, _ = assign_batch(
        POINTS, [torch.tensor([[1.0, 4.0]])], [torch.tensor([0])],
        classes=CLASSES, valid=nothing, force_nearest=True,
    )  # fmt: skip
    assert not target.any()
