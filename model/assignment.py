"""Label assignment: which points answer for which events (UnAV's class-aware rule).

Shapes: P points, N events, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.points import Points


def assign(
    points: Points,
    segments: Tensor,
    labels: Tensor,
    *,
    classes: int,
) -> tuple[Tensor, Tensor]:
    """Targets of one video.

    A point answers for an event when it lies strictly inside and the larger of its distances to
    start and end is in its level's range, both bounds included. A point may answer for several
    events; of two of one class, the later in the list wins.

    Args:
        points: The pyramid's points.
        segments: (N, 2) start and end in steps.
        labels: (N,) class numbers.
        classes: K.

    Returns:
        Class targets (P, K), 0 or 1, and distances (P, K, 2) to start and end in units of the
        point's stride, 0 where there is no event.
    """
    count = len(points.times)
    target = segments.new_zeros((count, classes))
    distance = segments.new_zeros((count, classes, 2))
    if len(segments) == 0:
        return target, distance
    left = points.times[:, None] - segments[None, :, 0]  # (P, N)
    right = segments[None, :, 1] - points.times[:, None]
    far = torch.maximum(left, right)
    match = (torch.minimum(left, right) > 0) & (far >= points.low[:, None])
    match &= far <= points.high[:, None]
    point, event = match.nonzero(as_tuple=True)
    # One number per matched (point, class): the largest event index, so the later event wins.
    winner = torch.full((count, classes), -1, device=segments.device)
    winner = (
        winner.view(-1)
        .scatter_reduce(0, point * classes + labels[event], event, "amax")
        .view(count, classes)
    )
    point, kind = (winner >= 0).nonzero(as_tuple=True)
    chosen = winner[point, kind]
    target[point, kind] = 1.0
    stride = points.strides[point]
    distance[point, kind, 0] = left[point, chosen] / stride
    distance[point, kind, 1] = right[point, chosen] / stride
    return target, distance
