"""How far labels are believed in training: a weak model's events, and where it is unsure.

Shapes: B videos, P points, N events and U unsure stretches of a video, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.assignment import answering, owners
from model.points import Points

EVENT_TARGETS = ("hard", "weighted", "soft")


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is not certain about the labels of one video.

    Attributes:
        target: (N,) what the class score at the points of each event is drawn to, in (0, 1].
        weight: (N,) weight of each event in the loss, in (0, 1].
        segments: (U, 2) stretches in steps that may or may not belong to an event of a class.
        labels: (U,) class numbers of these.
    """

    target: Tensor
    weight: Tensor
    segments: Tensor
    labels: Tensor

    @classmethod
    def of(cls, confidence: Tensor, segments: Tensor, labels: Tensor, *, targets: str) -> Doubt:
        """From the confidence (N,) in each event.

        ``hard`` believes every event, ``weighted`` gives it the weight of its confidence, ``soft``
        makes its confidence the target.
        """
        if targets not in EVENT_TARGETS:
            raise ValueError(f"unknown targets {targets!r}: use one of {EVENT_TARGETS}")
        one = torch.ones_like(confidence)
        return cls(
            confidence if targets == "soft" else one,
            confidence if targets == "weighted" else one,
            segments,
            labels,
        )

    @classmethod
    def none(cls, events: int) -> Doubt:
        """Of a video whose labels are certain."""
        one = torch.ones(events)
        return cls(one, one, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))

    def each(self, change: Callable[[Tensor], Tensor]) -> Doubt:
        """With every tensor changed, as for another device."""
        return Doubt(
            change(self.target), change(self.weight), change(self.segments), change(self.labels)
        )

    def cut(self, start: int, length: int, kept: Tensor) -> Doubt:
        """That of a piece of the video which keeps some of its events (N,)."""
        inside = self.segments.clamp(start, start + length) - start
        there = inside[:, 0] < inside[:, 1]
        return Doubt(self.target[kept], self.weight[kept], inside[there], self.labels[there])


def batch_doubts(doubts: Sequence[Doubt | None], events: Sequence[int]) -> list[Doubt] | None:
    """Of the videos of a batch; None where the labels of all are certain."""
    if not any(doubts):
        return None
    return [doubt or Doubt.none(count) for doubt, count in zip(doubts, events, strict=True)]


@dataclass(frozen=True, slots=True)
class PointDoubt:
    """What that means for every point of a batch.

    Attributes:
        target: (B, P, K) class targets; 0 where there is no event.
        weight: (B, P, K) of the classification loss; 0 where nothing is known.
        interval_weight: (B, P, K) of the interval loss; 0 where there is no event.
    """

    target: Tensor
    weight: Tensor
    interval_weight: Tensor


def doubt_points(
    points: Points,
    segments: Sequence[Tensor],
    labels: Sequence[Tensor],
    doubts: Sequence[Doubt],
    *,
    classes: int,
    valid: Tensor | None = None,
    nearest: bool = False,
) -> PointDoubt:
    """Targets and weights of all points.

    Of two events that a point answers for in one class, the largest target and weight count; so
    events must come in rising order of confidence, for then `assign_batch` takes the distances from
    the same event. A point in an unsure stretch has no weight for its class, on any level: how
    long an event there would be is as little known. The ends of an event weigh as much as the
    product of its target and weight.

    Args:
        points: The pyramid's points.
        segments: For each video (N, 2) start and end in steps.
        labels: For each video (N,) class numbers.
        doubts: One a video.
        classes: K.
        valid: (B, P) points that exist in each video; None for all.
        nearest: ``force_nearest`` of `assign_batch`.
    """
    shape = (len(segments), len(points.times), classes)
    match = answering(points, segments, valid=valid, force_nearest=nearest)
    point, event = match.nonzero(as_tuple=True)
    place = _place(owners(segments)[event], point, torch.cat(list(labels))[event], shape)

    def spread(values: Sequence[Tensor]) -> Tensor:
        flat = points.times.new_zeros(shape).flatten()
        return flat.scatter_reduce(0, place, torch.cat(list(values))[event], "amax").view(shape)

    target = spread([doubt.target for doubt in doubts])
    event_weight = spread([doubt.weight for doubt in doubts])
    known = ~_unsure(points, doubts, shape)
    weight = torch.where(target > 0, event_weight, torch.ones_like(target)) * known
    return PointDoubt(target, weight, target * event_weight)


def _unsure(points: Points, doubts: Sequence[Doubt], shape: tuple[int, int, int]) -> Tensor:
    """(B, P, K) whether a point lies in an unsure stretch of the class."""
    stretches = torch.cat([doubt.segments for doubt in doubts])
    video = owners([doubt.segments for doubt in doubts])
    inside = points.times[:, None] >= stretches[:, 0]
    inside &= points.times[:, None] <= stretches[:, 1]
    point, stretch = inside.nonzero(as_tuple=True)
    kinds = torch.cat([doubt.labels for doubt in doubts])
    found = torch.zeros(shape, dtype=torch.bool, device=points.times.device).flatten()
    found[_place(video[stretch], point, kinds[stretch], shape)] = True
    return found.view(shape)


def _place(video: Tensor, point: Tensor, kind: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Index into a flattened (B, P, K)."""
    return (video * shape[1] + point) * shape[2] + kind
