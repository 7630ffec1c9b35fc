"""Terms of a loss that need no segments.

Shapes: B videos, T steps, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def video_cross_entropy(scores: Tensor, target: Tensor, usable: Tensor) -> Tensor:
    """Mean over usable videos and classes of the binary cross-entropy of probabilities.

    Args:
        scores: (B, K) probabilities; what rounding puts outside of [0, 1] is put back.
        target: (B, K) of 0 and 1.
        usable: (B,) the other videos do not count.

    Returns:
        A scalar; 0 without a usable video.
    """
    terms = F.binary_cross_entropy(scores.float().clamp(0.0, 1.0), target, reduction="none")
    return (terms.mean(1) * usable).sum() / usable.sum().clamp(min=1)


def mean_change(activation: Tensor, valid: Tensor) -> Tensor:
    """Mean |p_{t+1} - p_t| over classes and pairs of valid steps.

    Args:
        activation: (B, K, T).
        valid: (B, T).

    Returns:
        A scalar; 0 where there is no pair.
    """
    pairs = valid[:, 1:] & valid[:, :-1]
    change = activation.diff(dim=2).abs().mean(1) * pairs
    return change.sum() / pairs.sum().clamp(min=1)
