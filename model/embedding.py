"""From backbone features to the model's width, with the place in time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ChannelNorm, MaskedConv1d


def sinusoid(steps: int, channels: int) -> Tensor:
    """Position table (1, C, T): sines on even channels, cosines on odd ones, over sqrt(C)."""
    position = torch.arange(steps, dtype=torch.float64)[None]
    pair = torch.arange(channels, dtype=torch.float64)[:, None] // 2
    angle = position / 10_000 ** (2 * pair / channels)
    table = torch.where(torch.arange(channels)[:, None] % 2 == 0, angle.sin(), angle.cos())
    return (table / math.sqrt(channels)).float()[None]


class Embedding(nn.Module):
    """Two convolutions with norm and ReLU, then the position table (UnAV, UniAV).

    A sequence longer than ``max_seq_len`` gets the table's continuation. UnAV stretches the table
    instead, over the padded length, which makes a video's result depend on its batch.

    Args:
        inputs: Width of the features.
        channels: C.
        max_seq_len: Length of the position table.
    """

    def __init__(self, inputs: int, channels: int, *, max_seq_len: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            MaskedConv1d(width, channels, 3, bias=False) for width in (inputs, channels)
        )
        self.norms = nn.ModuleList(ChannelNorm(channels) for _ in range(2))
        self.table: Tensor
        self.register_buffer("table", sinusoid(max_seq_len, channels), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, inputs, T) and (B, 1, T) in, (B, C, T) out."""
        x = x * mask
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, mask)[0])) * mask
        steps = x.shape[-1]
        table = self.table
        if steps > table.shape[-1]:
            table = sinusoid(steps, table.shape[1]).to(table)
        return x + table[..., :steps] * mask
