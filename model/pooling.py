"""From scores of steps to scores of a video: multiple-instance pooling.

Shapes: B videos, C channels, T steps, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLINGS = ("top", "attention", "modality")


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
        return (_over_time(self.weigh(features), valid) * values).sum(2)


class ModalityPooling(nn.Module):
    """Weighted means over the valid steps and over both modalities (HAN, Tian et al. 2020).

    A modality's own scores are weighed by the softmax over time of W H, with H its stream. The
    joint ones, which belong to no modality here, are weighed by the sum over modalities of this
    softmax times the softmax over modalities of W' H, step by step. W and W' serve both modalities.
    These sums of weights may be greater than 1, as in HAN; what is pooled is cut off there.

    Args:
        channels: C of a modality's stream.
        classes: K.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(channels, classes, 1)
        self.over_modalities = nn.Conv1d(channels, classes, 1)
        for layer in (self.over_time, self.over_modalities):  # starts as the plain mean
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, values: dict[str, Tensor], streams: dict[str, Tensor], valid: Tensor
    ) -> dict[str, Tensor]:
        """(B, K) for each of the values.

        Args:
            values: Each (B, K, T): ``joint``, and by the name of a modality or, for its classifier
                before the modalities meet, with ``evidence_`` in front.
            streams: (B, C, T) by the name of the modality.
            valid: (B, T).
        """
        weights = {
            name: _over_time(self.over_time(stream), valid) for name, stream in streams.items()
        }
        shares = torch.stack([self.over_modalities(stream).float() for stream in streams.values()])
        weights["joint"] = (torch.stack(list(weights.values())) * shares.softmax(0)).sum(0)
        return {
            name: (weights[name.removeprefix("evidence_")] * value).sum(2).clamp(max=1.0)
            for name, value in values.items()
        }


def _over_time(logits: Tensor, valid: Tensor) -> Tensor:
    """Softmax of (B, K, T) over the valid steps, 0 elsewhere."""
    logits = logits.float().masked_fill(~valid[:, None], torch.finfo(torch.float32).min)
    return logits.softmax(2) * valid[:, None]
