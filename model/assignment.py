"""Label assignment: which points answer for which events (UnAV's two rules).

Shapes: B videos, P points, N events, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def answering(
    points: Points,
    segments: Sequence[Tensor],
    *,
    valid: Tensor | None = None,
    force_nearest: bool = False,
) -> Tensor:
    """Which points answer for which events of several videos: (P, N), the events of all in one row.

    Args:
        points: The pyramid's points.
        segments: For each video (N, 2).
        valid: (B, P) points that exist in each video; None for all.
        force_nearest: See `assign_batch`.
    """
    events = torch.cat(list(segments))
    match = matches(points, events)
    exists = None if valid is None else valid[owners(segments)].T
    if exists is not None:
        match = match & exists
    return add_nearest(match, points, events, exists=exists) if force_nearest else match


def add_nearest(
    match: Tensor, points: Points, segments: Tensor, *, exists: Tensor | None = None
) -> Tensor:
    """Give every event without a point the nearest one of a level that answers for its length.

    Events shorter than a step may lie between two points, and events at the end of a video behind
    the last one. The nearest point may lie outside of such an event; its distance to the far end
    is then the only one that is not 0.

    Args:
        match: (P, N) from `matches`.
        points: The pyramid's points.
        segments: (N, 2).
        exists: (P, N) points of each event's video; None for all.
    """
    lost = (~match.any(0)).nonzero()[:, 0]
    if len(lost) == 0:
        return match
    start, end = segments[lost].unbind(1)
    far = torch.maximum(points.times[:, None] - start, end - points.times[:, None])
    fits = (far >= points.low[:, None]) & (far <= points.high[:, None])
    if exists is not None:
        fits &= exists[:, lost]
    offset = (points.times[:, None] - (start + end) / 2).abs()
    nearest = offset.masked_fill(~fits, torch.inf).argmin(0)
    found = fits.any(0)
    match = match.clone()
    match[nearest[found], lost[found]] = True
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
    """Targets of one video: (P, K) and (P, K, 2); see `assign_batch`."""
    target, distance = assign_batch(
        points,
        [segments],
        [labels],
        classes=classes,
        force_nearest=force_nearest,
        class_aware=class_aware,
    )
    return target[0], distance[0]


def assign_batch(
    points: Points,
    segments: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    classes: int,
    valid: Tensor | None = None,
    force_nearest: bool = False,
    class_aware: bool = True,
) -> tuple[Tensor, Tensor]:
    """Targets of several videos at once: all events stand in one list, with the video of each.

    A point may answer for several events; of two of one class, the later in the list wins. Where
    distances are not told apart by class, a point answers for the shortest of its events.

    Args:
        points: The pyramid's points.
        segments: For each video (N, 2) start and end in steps; N may be 0.
        labels: For each video (N,) class numbers.
        classes: K.
        valid: (B, P) points that exist in each video: no other answers for an event; None for all.
        force_nearest: Give events that no point answers for the nearest point; the public code
            leaves them out.
        class_aware: Whether each class has distances of its own. Without, all classes of a point
            get those of its shortest event.

    Returns:
        Class targets (B, P, K), 0 or 1, and distances (B, P, K, 2) to start and end in units of
        the point's stride, 0 where there is no event.

    Raises:
        ValueError: A class number is not in 0..K-1.
    """
    shape = (len(segments), len(points.times), classes)
    events, kinds = torch.cat(list(segments)), torch.cat(list(labels))
    target, distance = events.new_zeros(shape), events.new_zeros((*shape, 2))
    if len(events) == 0:
        return target, distance
    _check_classes(kinds, classes)
    video = owners(segments)
    match = answering(points, segments, valid=valid, force_nearest=force_nearest)
    if not class_aware:
        match, shortest = _only_shortest(match, events, video, videos=shape[0])
    point, event = match.nonzero(as_tuple=True)
    # One number per matched (video, point, class): the largest event index, so the later one wins.
    winner = torch.full((target.numel(),), -1, device=events.device)
    place = (video[event] * shape[1] + point) * classes + kinds[event]
    winner = winner.scatter_reduce(0, place, event, "amax").view(shape)
    row, point, kind = (winner >= 0).nonzero(as_tuple=True)
    chosen = winner[row, point, kind] if class_aware else shortest[point, row]
    target[row, point, kind] = 1.0
    left = points.times[point] - events[chosen, 0]
    right = events[chosen, 1] - points.times[point]
    reach = torch.stack([left, right], dim=-1).clamp(min=0)
    distance[row, point, kind] = reach / points.strides[point][:, None]
    return target, distance


def owners(segments: Sequence[Tensor]) -> Tensor:
    """The video that each of the joined events is of: (N,) for the N events of all videos."""
    counts = torch.tensor([len(entry) for entry in segments])
    return torch.arange(len(segments)).repeat_interleave(counts).to(segments[0].device)


def count_missed(points: Points, segments: Sequence[Tensor], valid: Tensor) -> int:
    """Number of events that no valid point answers for.

    Args:
        points: The pyramid's points.
        segments: For each video (N, 2).
        valid: (B, P) points that exist in each video.
    """
    return int((~answering(points, segments, valid=valid).any(0)).sum())


def _check_classes(labels: Tensor, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)].tolist()
    if wrong:
        raise ValueError(f"class numbers {wrong} do not all lie in 0..{classes - 1}")


def _only_shortest(
    match: Tensor, events: Tensor, video: Tensor, *, videos: int
) -> tuple[Tensor, Tensor]:
    """Leave each point its shortest event of a video, and those that are as short (UnAV).

    Args:
        match: (P, N).
        events: (N, 2) of all videos.
        video: (N,) of each event.
        videos: B.

    Returns:
        (P, N) what is left of the matches, and (P, B) the first of the shortest events; N where a
        point has none.
    """
    points, count = match.shape
    place = video.expand(points, -1)
    lengths = (events[:, 1] - events[:, 0]).expand(points, -1).masked_fill(~match, torch.inf)
    least = lengths.new_full((points, videos), torch.inf).scatter_reduce(1, place, lengths, "amin")
    least = least.gather(1, place)
    number = torch.arange(count, device=match.device).expand(points, -1)
    number = number.masked_fill(~match | (lengths > least), count)
    first = number.new_full((points, videos), count).scatter_reduce(1, place, number, "amin")
    return match & (lengths <= least + TIE), first
