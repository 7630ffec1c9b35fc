"""Non-maximum suppression of intervals in one dimension, all classes at once.

Source: Bodla et al., 2017: take the best candidate, multiply the scores of the rest by a decay
that depends on their IoU with it, drop what falls below a floor, repeat. Hard NMS is the decay that
is 0 or 1. Segment voting then moves each kept interval to the mean of its neighbours.

Shapes: N candidates, M kept, K classes, W candidates of the largest class.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6  # added to lengths, as in the public code, so that empty intervals have an IoU
GONE = -1.0  # score of a place without a candidate
METHODS = ("gaussian", "linear", "hard")


def interval_iou(one: Tensor, others: Tensor) -> Tensor:
    """IoU of (..., 2) against (..., 2) intervals, broadcast."""
    overlap = torch.minimum(one[..., 1], others[..., 1]) - torch.maximum(
        one[..., 0], others[..., 0]
    )
    overlap = overlap.clamp(min=0)
    lengths = (one[..., 1] - one[..., 0] + EPSILON) + (others[..., 1] - others[..., 0] + EPSILON)
    return overlap / (lengths - overlap)


def soft_nms(
    segments: Tensor,
    scores: Tensor,
    *,
    method: str = "gaussian",
    sigma: float = 0.4,
    iou_threshold: float = 0.7,
    min_score: float = 0.001,
    max_total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Suppression of candidates as if they were of one class.

    Args:
        segments: (N, 2).
        scores: (N,) positive.
        method: ``gaussian`` decays by exp(-IoU^2 / sigma); ``linear`` by 1 - IoU and ``hard`` to 0,
            both from ``iou_threshold`` on.
        sigma: Width of the Gaussian decay; the others do not use it.
        iou_threshold: Of the other two.
        min_score: Candidates that decay below it are dropped.
        max_total: How many to keep; None for all.

    Returns:
        Indices (M,) of the kept candidates, best first, and their decayed scores (M,).
    """
    count = len(scores) if max_total is None else max_total
    return multiclass_soft_nms(
        segments,
        scores,
        torch.zeros(len(scores), dtype=torch.long, device=scores.device),
        method=method,
        sigma=sigma,
        iou_threshold=iou_threshold,
        min_score=min_score,
        max_per_class=count,
        max_total=count,
    )


def multiclass_soft_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: str = "gaussian",
    sigma: float = 0.4,
    iou_threshold: float = 0.7,
    min_score: float = 0.001,
    max_per_class: int = 100,
    max_total: int = 100,
) -> tuple[Tensor, Tensor]:
    """Suppression in each class by itself; all classes advance together.

    Candidates of one class are a row of a table; each round takes the best of every row. As a
    row's best only falls, a row is left as soon as it cannot reach the ``max_total`` best.

    Args:
        segments: (N, 2).
        scores: (N,) positive.
        labels: (N,) class numbers.
        method: See `soft_nms`.
        sigma: See `soft_nms`.
        iou_threshold: See `soft_nms`.
        min_score: Candidates that decay below it are dropped; the best of a class is not.
        max_per_class: Kept of each class.
        max_total: Kept of all.

    Returns:
        Indices (M,) of the kept candidates, best first, and their decayed scores (M,).
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {METHODS}")
    if len(scores) == 0:
        return torch.zeros(0, dtype=torch.long, device=scores.device), scores
    table, live, origin = _table(segments, scores, labels)
    kept, decayed = [], []
    leaders = scores.new_zeros(0)
    for _ in range(min(live.shape[1], max_per_class)):
        best, place = live.max(1, keepdim=True)
        going = best[:, 0] >= 0
        if len(leaders) == max_total:
            going &= best[:, 0] >= leaders[-1]
        if not going.all():
            if not going.any():
                break
            table, live, origin = table[going], live[going], origin[going]
            best, place = best[going], place[going]
        kept.append(origin.gather(1, place)[:, 0])
        decayed.append(best[:, 0])
        leaders = torch.cat([leaders, best[:, 0]])
        leaders = leaders.topk(min(max_total, len(leaders))).values
        chosen = table.gather(1, place[..., None].expand(-1, -1, 2))
        rest = live * _decay(interval_iou(chosen, table), method, sigma, iou_threshold)
        # What is gone stays below 0, what hard NMS struck out is 0: neither may come back.
        live = rest.masked_fill((rest < min_score) | (rest <= 0), GONE).scatter(1, place, GONE)
    values = torch.cat(decayed)
    ranking = torch.argsort(values, descending=True, stable=True)[:max_total]
    return torch.cat(kept)[ranking], values[ranking]


def vote(
    segments: Tensor,
    candidates: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float = 0.75,
    weight: str = "score",
) -> Tensor:
    """Move each interval to the weighted mean of the candidates that overlap it (segment voting).

    Classes are not looked at: all candidates vote, the suppressed ones too.

    Args:
        segments: (M, 2) intervals that suppression kept.
        candidates: (N, 2) all intervals before it.
        scores: (N,) their scores before it.
        iou_threshold: Least IoU of a neighbour.
        weight: ``score`` (UnAV, TriDet) or ``score_iou``, times the IoU (ActionFormer).

    Returns:
        (M, 2) intervals.
    """
    iou = interval_iou(segments[:, None], candidates[None])
    share = (iou >= iou_threshold) * scores
    if weight == "score_iou":
        share = share * iou
    elif weight != "score":
        raise ValueError(f"unknown weight {weight!r}: use score or score_iou")
    total = share.sum(1, keepdim=True)
    # An interval shorter than the epsilon has no neighbour, not even itself: it stays.
    return torch.where(total > 0, share @ candidates / total.clamp(min=1e-12), segments)


def _decay(iou: Tensor, method: str, sigma: float, threshold: float) -> Tensor:
    if method == "gaussian":
        return torch.exp(-(iou**2) / sigma)
    lost = iou >= threshold
    return torch.where(lost, 1 - iou if method == "linear" else torch.zeros_like(iou), 1.0)


def _table(segments: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals (K, W, 2), scores (K, W) and indices (K, W) with a row for each class."""
    kinds, row = labels.unique(return_inverse=True)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]  # by class, best first
    row = row[order]
    sizes = torch.bincount(row, minlength=len(kinds))
    column = torch.arange(len(order), device=scores.device) - (sizes.cumsum(0) - sizes)[row]
    shape = (len(kinds), int(sizes.max()))
    table = segments.new_zeros((*shape, 2))
    live = scores.new_full(shape, GONE)
    origin = order.new_zeros(shape)
    table[row, column] = segments[order]
    live[row, column] = scores[order]
    origin[row, column] = order
    return table, live, origin
