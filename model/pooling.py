"""From scores of steps to scores of a video: multiple-instance pooling.

Shapes: B videos, C channels, T steps, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLINGS = ("top", "attention")


def top_mean(values: Tensor, valid: Tensor, *, divisor: int = 8) -> Tensor:
    """Mean of the max(1, V // divisor) largest of a video's V valid steps, per class.

    Args:
        values: (B, K, T).
        valid: (B, T).
        divisor: 8 in W-TALC and most of its successors.

    Returns:
        (B, K); 0 for a video without a valid step.
    """
    most = max(1, values.shape[2] // divisor)
    wanted = (valid.sum(1) // divisor).clamp(min=1)[:, None, None]
    best = values.masked_fill(~valid[:, None], -torch.inf).topk(most, dim=2).values
    used = (torch.arange(most, device=values.device) < wanted) & best.isfinite()
    return best.masked_fill(~used, 0.0).sum(2) / used.sum(2).clamp(min=1)


class AttentivePooling(nn.Module):
    """Weighted mean over the valid steps, with weights learned per class (HAN, Tian et al. 2020).

    Args:
        channels: C of the features that decide the weights.
        classes: K.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.weigh = nn.Conv1d(channels, classes, 1)
        nn.init.zeros_(self.weigh.weight)  # starts as the plain mean
        nn.init.zeros_(self.weigh.bias)  # type: ignore[arg-type]

    def forward(self, values: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """(B, K, T), (B, C, T) and (B, T) in; (B, K) out, 0 for a video without a valid step."""
        logits = self.weigh(features)
        logits = logits.masked_fill(~valid[:, None], torch.finfo(logits.dtype).min)
        pooled: Tensor = (logits.softmax(2) * values * valid[:, None]).sum(2)
        return pooled
