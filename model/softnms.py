"""Gaussian Soft-NMS of intervals, for one class or for all classes at once.

Source: Bodla et al., 2017: take the best candidate, multiply the scores of the rest by
exp(-IoU^2 / sigma), drop what falls below a floor, repeat.

Shapes: N candidates, M kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6  # added to lengths, as in the public code, so that empty intervals have an IoU
GONE = -1.0  # score of a place without a candidate


def interval_iou(one: Tensor, others: Tensor) -> Tensor:
    """IoU of (..., 1, 2) against (..., N, 2) intervals: (..., N)."""
    overlap = torch.minimum(one[..., 1], others[..., 1]) - torch.maximum(
        one[..., 0], others[..., 0]
    )
    overlap = overlap.clamp(min=0)
    lengths = (one[..., 1] - one[..., 0] + EPSILON) + (others[..., 1] - others[..., 0] + EPSILON)
    return overlap / (lengths - overlap)


def soft_nms(
    segments: Tensor, scores: Tensor, *, sigma: float = 0.4, min_score: float = 0.001
) -> tuple[Tensor, Tensor]:
    """Soft-NMS of candidates of one class.

    Args:
        segments: (N, 2).
        scores: (N,) positive.
        sigma: Width of the decay.
        min_score: Candidates that decay below it are dropped.

    Returns:
        Indices (M,) of the kept candidates, best first, and their decayed scores (M,).
    """
    labels = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return _suppress(segments, scores, labels, sigma, min_score, limit=len(scores))


def multiclass_soft_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    sigma: float = 0.4,
    min_score: float = 0.001,
    max_per_class: int = 100,
    max_total: int = 100,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS in each class by itself; all classes advance together.

    Args:
        segments: (N, 2).
        scores: (N,) positive.
        labels: (N,) class numbers.
        sigma: Width of the decay.
        min_score: Candidates that decay below it are dropped.
        max_per_class: Kept of each class.
        max_total: Kept of all.

    Returns:
        Indices (M,) of the kept candidates, best first, and their decayed scores (M,).
    """
    index, decayed = _suppress(segments, scores, labels, sigma, min_score, limit=max_per_class)
    return index[:max_total], decayed[:max_total]


def _suppress(
    segments: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, *, limit: int
) -> tuple[Tensor, Tensor]:
    """Candidates sorted into a table with a row for each class; each round takes one of a row."""
    if len(scores) == 0:
        return labels.new_zeros(0, dtype=torch.long), scores
    kinds, row = labels.unique(return_inverse=True)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]  # by class, best first
    sizes = torch.bincount(row, minlength=len(kinds))
    width = int(sizes.max())
    column = torch.arange(len(order), device=scores.device) - (sizes.cumsum(0) - sizes)[row[order]]
    table = segments.new_zeros((len(kinds), width, 2))
    live = scores.new_full((len(kinds), width), GONE)
    origin = order.new_zeros((len(kinds), width))
    table[row[order], column] = segments[order]
    live[row[order], column] = scores[order]
    origin[row[order], column] = order
    kept, decayed = [], []
    active = torch.arange(len(kinds), device=scores.device)
    for _ in range(min(width, limit)):
        best, place = live[active].max(1)
        going = best > 0
        active, best, place = active[going], best[going], place[going]
        if len(active) == 0:
            break
        kept.append(origin[active, place])
        decayed.append(best)
        live[active, place] = GONE
        overlap = interval_iou(table[active, place][:, None], table[active])
        rest = live[active] * torch.exp(-(overlap**2) / sigma)
        live[active] = torch.where(rest < min_score, GONE, rest)
    values = torch.cat(decayed)
    ranking = torch.argsort(values, descending=True, stable=True)
    return torch.cat(kept)[ranking], values[ranking]
