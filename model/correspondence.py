"""Local correspondence (LCC): picture and sound of one moment, and of near ones, belong together.

Shapes: B videos, T steps, N valid steps of the batch, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VARIANTS = ("diagonal", "softened", "fixed", "learnable")


class Correspondence(nn.Module):
    """Soft-target contrastive loss between the two streams (LoCo, Eqs 2-5; reconstructed).

    The target of a pair of steps of one video is a Gaussian of their distance to the diagonal,
    |i - j| / sqrt(2); pairs of different videos have target 0. Padded steps enter neither rows
    nor columns.

    Args:
        channels: C of the streams.
        variant: One of `VARIANTS`.
        sigma: Initial deviation in steps.
        targets: ``raw`` or ``normalised`` (rows that sum to 1).
        smoothing: Mass that ``softened`` spreads over the other steps of the video.
        temperature: Initial temperature; clamped to [0.001, 0.5] (ALBEF).
    """

    def __init__(
        self,
        channels: int,
        *,
        variant: str = "learnable",
        sigma: float = 1.0,
        targets: str = "raw",
        smoothing: float = 0.1,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}: use one of {VARIANTS}")
        self.variant, self.targets, self.smoothing = variant, targets, smoothing
        self.project = nn.ModuleDict(
            {
                "vision": nn.Linear(channels, channels // 2),
                "audio": nn.Linear(channels, channels // 2),
            }
        )
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)), variant == "learnable")
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def sigma(self, steps: int) -> Tensor:
        """Deviation in steps, clamped to [0.3, T / 8]."""
        return self.log_sigma.exp().clamp(0.3, max(0.3, steps / 8))

    def forward(self, vision: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T) streams and the (B, T) mask of steps that both have; a scalar loss."""
        if not mask.any():
            return vision.sum() * 0
        video, step = mask.nonzero(as_tuple=True)
        v = F.normalize(self.project["vision"](vision.transpose(1, 2)[mask]), dim=-1)
        a = F.normalize(self.project["audio"](audio.transpose(1, 2)[mask]), dim=-1)
        logits = v @ a.T / self.temperature.clamp(0.001, 0.5)
        target = self._targets(video, step, mask.shape[1])
        forward = -(target * logits.log_softmax(1)).sum(1).mean()
        backward = -(target.T * logits.T.log_softmax(1)).sum(1).mean()
        return (forward + backward) / 2

    def _targets(self, video: Tensor, step: Tensor, steps: int) -> Tensor:
        same = video[:, None] == video[None]
        if self.variant == "diagonal":
            return torch.eye(len(step), device=step.device)
        if self.variant == "softened":
            others = (same.sum(1, keepdim=True) - 1).clamp(min=1)
            target = same * (self.smoothing / others)
            return target.fill_diagonal_(1 - self.smoothing)
        sigma = self.sigma(steps)
        distance = (step[:, None] - step[None]).abs() / math.sqrt(2)
        target = torch.exp(-(distance**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        target = target * same
        return target / target.sum(1, keepdim=True) if self.targets == "normalised" else target
