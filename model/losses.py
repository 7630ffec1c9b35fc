"""Focal loss, one-dimensional IoU losses, and the running normaliser.

Shapes: any leading shape; distances end in 2 (to start, to end).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INTERVALS = ("giou", "diou")


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    soft: bool = False,
) -> Tensor:
    """Sigmoid focal loss per element (Lin et al., 2017).

    A negative ``alpha`` leaves the class weight out. With ``soft`` a target may be any probability
    and the loss is least there (quality focal loss, Li et al., 2020); at 0 and 1 both are the same.
    """
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = probability * targets + (1 - probability) * (1 - targets)
    wrong = (targets - probability).abs() if soft else 1 - right
    if 0 < gamma < 1:  # such a power has no bounded slope at 0, where float32 puts sure answers
        wrong = wrong.clamp(min=torch.finfo(wrong.dtype).tiny)
    loss = entropy * wrong**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss


def smooth_targets(targets: Tensor, smoothing: float) -> Tensor:
    """Class targets (..., K) moved towards 1 / (K + 1) (ActionFormer); 0 leaves them alone."""
    return targets * (1 - smoothing) + smoothing / (targets.shape[-1] + 1)


def interval_loss(predicted: Tensor, target: Tensor, *, kind: str = "giou") -> Tensor:
    """1 - IoU of two intervals around one point; ``diou`` adds the distance of their centres.

    Both contain the point, so their hull is their union and GIoU equals IoU.

    Args:
        predicted: (..., 2) distances to start and end, not negative.
        target: Likewise.
        kind: ``giou`` or ``diou``.

    Returns:
        (...) loss.
    """
    if kind not in INTERVALS:
        raise ValueError(f"unknown interval loss {kind!r}: use one of {INTERVALS}")
    overlap = torch.minimum(predicted, target).sum(-1)
    union = predicted.sum(-1) + target.sum(-1) - overlap
    loss = 1 - overlap / union.clamp(min=1e-8)
    if kind == "giou":
        return loss
    hull = torch.maximum(predicted, target).sum(-1)
    shift = 0.5 * ((predicted[..., 1] - predicted[..., 0]) - (target[..., 1] - target[..., 0]))
    return loss + (shift / hull.clamp(min=1e-8)) ** 2


class RunningNormaliser(nn.Module):
    """Exponential mean of the number of positive points; a buffer, so that checkpoints keep it."""

    def __init__(self, *, initial: float = 250.0, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.count: Tensor
        self.register_buffer("count", torch.tensor(float(initial)))

    def forward(self, positives: Tensor) -> Tensor:
        """Take this batch's count, in training, and return the mean."""
        if self.training:
            fresh = positives.clamp(min=1).to(self.count)
            self.count.mul_(self.momentum).add_((1 - self.momentum) * fresh)
        return self.count.clone()
