"""What one modality says of the times at which the other is worth hearing: CCNet's temporal gate.

Shapes: B videos, C channels, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import Block
from model.mixing import GlobalAttention


class TemporalGate(nn.Module):
    """One modality's stream, amplified at the steps that the other modality points to.

    F <- F * (1 + g), g = sigmoid(w SA(E)) with E the other modality's stream before the two met
    and SA a block of self-attention. A step is amplified up to twice and never shut off.

    Source: the temporal gate of CCNet (AAAI 2025), by the first authors of CLASP; whether CLASP has
    it is not known.

    Args:
        channels: C.
        heads: Of the self-attention.
        drop_path: Probability of stochastic depth.
    """

    def __init__(self, channels: int, heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.block = Block(channels, heads, GlobalAttention(), drop_path=drop_path)
        self.weigh = nn.Conv1d(channels, 1, 1)

    def forward(self, stream: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
        """(B, C, T), (B, C, T) and (B, 1, T) in, (B, C, T) out; no gate where other is missing."""
        attended, _ = self.block(other, other, other_mask, other_mask)
        gate: Tensor = torch.sigmoid(self.weigh(attended)) * other_mask
        return stream * (1 + gate)
