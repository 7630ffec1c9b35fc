"""Label assignment: which points answer for which events (UnAV's two rules).

Shapes: P points, N events, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.points import Points

TIE = 1e-3  # steps; without classes, events so near in length to a point's shortest share it


def matches(points: Points, segments: Tensor) -> Tensor:
    """Which points answer for which events: (P, N).

    A point answers for an event when it lies strictly inside and the larger of its distances to
    start and end is in its level's range, both bounds included.
    """
    left = points.times[:, None] - segments[None, :, 0]
    right = segments[None, :, 1] - points.times[:, None]
    far = torch.maximum(left, right)
    return (
        (torch.minimum(left, right) > 0)
        & (far >= points.low[:, None])
        & (far <= points.high[:, None])
    )


def add_nearest(match: Tensor, points: Points, segments: Tensor) -> Tensor:
    """Give every event without a point the nearest one of a level that answers for its length.

    Events shorter than a step may lie between two points. The nearest point may lie outside of
    such an event; its distance to the far end is then the only one that is not 0.
    """
    lost = (~match.any(0)).nonzero()[:, 0]
    if len(lost) == 0:
        return match
    start, end = segments[lost].unbind(1)
    far = torch.maximum(points.times[:, None] - start, end - points.times[:, None])
    fits = (far >= points.low[:, None]) & (far <= points.high[:, None])
    offset = (points.times[:, None] - (start + end) / 2).abs()
    nearest = offset.masked_fill(~fits, torch.inf).argmin(0)
    match = match.clone()
    match[nearest, lost] = True
    return match


def assign(
    points: Points,
    segments: Tensor,
    labels: Tensor,
    *,
    classes: int,
    force_nearest: bool = False,
    class_aware: bool = True,
) -> tuple[Tensor, Tensor]:
    """Targets of one video.

    A point may answer for several events; of two of one class, the later in the list wins. Where
    distances are not told apart by class, a point answers for the shortest of its events.

    Args:
        points: The pyramid's points.
        segments: (N, 2) start and end in steps.
        labels: (N,) class numbers.
        classes: K.
        force_nearest: Give events that no point answers for the nearest point; the public code
            leaves them out.
        class_aware: Whether each class has distances of its own. Without, all classes of a point
            get those of its shortest event.

    Returns:
        Class targets (P, K), 0 or 1, and distances (P, K, 2) to start and end in units of the
        point's stride, 0 where there is no event.

    Raises:
        ValueError: A class number is not in 0..K-1.
    """
    count = len(points.times)
    target = segments.new_zeros((count, classes))
    distance = segments.new_zeros((count, classes, 2))
    if len(segments) == 0:
        return target, distance
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"class numbers {labels.tolist()} do not all lie in 0..{classes - 1}")
    match = matches(points, segments)
    if force_nearest:
        match = add_nearest(match, points, segments)
    if not class_aware:
        match = _only_shortest(match, segments)
    point, event = match.nonzero(as_tuple=True)
    # One number per matched (point, class): the largest event index, so the later event wins.
    winner = torch.full((count * classes,), -1, device=segments.device)
    winner = winner.scatter_reduce(0, point * classes + labels[event], event, "amax")
    point, kind = (winner.view(count, classes) >= 0).nonzero(as_tuple=True)
    chosen = winner.view(count, classes)[point, kind]
    if not class_aware:
        chosen = _lengths(match, segments).argmin(1)[point]
    target[point, kind] = 1.0
    left = points.times[point] - segments[chosen, 0]
    right = segments[chosen, 1] - points.times[point]
    reach = torch.stack([left, right], dim=-1).clamp(min=0)
    distance[point, kind] = reach / points.strides[point][:, None]
    return target, distance


def _lengths(match: Tensor, segments: Tensor) -> Tensor:
    """(P, N) length of each event at the points that answer for it, infinite elsewhere."""
    lengths = (segments[:, 1] - segments[:, 0]).expand(match.shape)
    return lengths.masked_fill(~match, torch.inf)


def _only_shortest(match: Tensor, segments: Tensor) -> Tensor:
    """Leave each point its shortest event, and those that are as short (UnAV)."""
    lengths = _lengths(match, segments)
    return match & (lengths <= lengths.amin(1, keepdim=True) + TIE)
