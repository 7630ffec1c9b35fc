"""Non-maximum suppression of intervals, class by class, all classes at once.

Shapes: N candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6  # added to lengths, as in the public code, so that empty intervals have an IoU


def interval_iou(one: Tensor, others: Tensor) -> Tensor:
    """IoU of (..., 1, 2) against (..., N, 2) intervals."""
    overlap = torch.minimum(one[..., 1], others[..., 1]) - torch.maximum(
        one[..., 0], others[..., 0]
    )
    overlap = overlap.clamp(min=0)
    lengths = (one[..., 1] - one[..., 0] + EPSILON) + (others[..., 1] - others[..., 0] + EPSILON)
    return overlap / (lengths - overlap)


def soft_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    sigma: float = 0.4,
    min_score: float = 0.001,
    max_per_class: int = 100,
    max_total: int = 100,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multi-class Gaussian Soft-NMS (Bodla et al., 2017).

    In each class: take the best candidate, multiply the rest by exp(-IoU^2 / sigma), drop what
    falls below ``min_score``, repeat.

    Args:
        segments: (N, 2).
        scores: (N,).
        labels: (N,).
        sigma: Width of the decay.
        min_score: Candidates that decay below it are dropped; the best of all stays.
        max_per_class: Kept of each class.
        max_total: Kept of all.

    Returns:
        Segments (M, 2), decayed scores (M,) falling, labels (M,).
    """
    if len(scores) == 0:
        return segments, scores, labels
    kinds, row = labels.unique(return_inverse=True)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]  # by class, best first
    sizes = torch.bincount(row, minlength=len(kinds))
    width = int(sizes.max())
    column = torch.arange(len(order), device=scores.device) - (sizes.cumsum(0) - sizes)[row[order]]
    table = segments.new_zeros((len(kinds), width, 2))
    live = scores.new_full((len(kinds), width), -1.0)  # -1: no candidate
    table[row[order], column] = segments[order]
    live[row[order], column] = scores[order]
    kept_segments, kept_scores, kept_rows = [], [], []
    active = torch.arange(len(kinds), device=scores.device)
    for _ in range(min(width, max_per_class)):
        best, index = live[active].max(1)
        going = best > 0
        active, best, index = active[going], best[going], index[going]
        if len(active) == 0:
            break
        chosen = table[active, index]
        kept_segments.append(chosen)
        kept_scores.append(best)
        kept_rows.append(active)
        live[active, index] = -1.0
        decayed = live[active] * torch.exp(
            -(interval_iou(chosen[:, None], table[active]) ** 2) / sigma
        )
        live[active] = torch.where(decayed < min_score, -1.0, decayed)
    joined = torch.cat(kept_scores)
    top = torch.argsort(joined, descending=True, stable=True)[:max_total]
    return torch.cat(kept_segments)[top], joined[top], kinds[torch.cat(kept_rows)[top]]
