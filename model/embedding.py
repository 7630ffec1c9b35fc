"""From backbone features to the model's width, with the place in time.

Shapes: B videos, C channels, T steps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ChannelNorm, MaskedConv1d

POSITIONS = ("continued", "stretched", "none")


def sinusoid(steps: int, channels: int) -> Tensor:
    """Position table (1, C, T): sines on even channels, cosines on odd ones, over sqrt(C)."""
    position = torch.arange(steps, dtype=torch.float64)[None]
    pair = torch.arange(channels, dtype=torch.float64)[:, None] // 2
    angle = position / 10_000 ** (2 * pair / channels)
    table = torch.where(torch.arange(channels)[:, None] % 2 == 0, angle.sin(), angle.cos())
    return (table / math.sqrt(channels)).float()[None]


class Embedding(nn.Module):
    """Convolutions with norm and ReLU, then the position table (UnAV, UniAV).

    Args:
        inputs: Width of the features.
        channels: C.
        max_seq_len: Length of the position table.
        positions: What a video longer than the table gets: ``continued`` the next rows of the
            sinusoid; ``stretched`` the table interpolated to the video's own length. UnAV stretches
            to the padded length, which makes a video's result depend on its batch. ``none`` leaves
            positions out at any length: LCC can be answered by them alone, without content.
        layers: Number of convolutions.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        max_seq_len: int,
        positions: str = "continued",
        layers: int = 2,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"unknown positions {positions!r}: use one of {POSITIONS}")
        if layers < 1:
            raise ValueError(f"the embedding has {layers} layers: give it at least 1")
        self.positions = positions
        self.convs = nn.ModuleList(
            MaskedConv1d(inputs if layer == 0 else channels, channels, 3, bias=False)
            for layer in range(layers)
        )
        self.norms = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.table: Tensor
        self.register_buffer("table", sinusoid(max_seq_len, channels), persistent=False)
        self._longer: Tensor | None = None  # the table, continued as far as a video asked for it

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """(B, inputs, T), (B, 1, T) and the videos' own lengths (B,) in; (B, C, T) out."""
        x = x.masked_fill(~mask, 0.0)  # a product would keep NaN and infinities of the padding
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, mask)[0])) * mask
        if self.positions == "none":
            return x
        return x + self._places(lengths, x.shape[-1]).to(x.dtype) * mask

    def _places(self, lengths: Tensor, steps: int) -> Tensor:
        """Rows of the table for each video: (B or 1, C, T)."""
        known = self.table.shape[-1]
        if steps <= known:
            return self.table[..., :steps]
        table = self._continued(steps)
        if self.positions == "continued":
            return table
        rows = []
        for length in lengths.tolist():
            row = table
            if length > known:
                row = F.interpolate(self.table, size=length, mode="linear", align_corners=False)
                row = F.pad(row, (0, steps - length))
            rows.append(row)
        return torch.cat(rows)

    def _continued(self, steps: int) -> Tensor:
        """The first rows of the sinusoid, more than the table has: (1, C, T).

        Kept for the next piece or video: they are made on the CPU, for which a GPU would wait.
        """
        kept, known = self._longer, self.table.shape[-1]
        if kept is None or kept.shape[-1] < steps or kept.device != self.table.device:
            with torch.inference_mode(False):  # training may read what detection computed
                longer = sinusoid(-(-steps // known) * known, self.table.shape[1])
                kept = self._longer = longer.to(self.table.device)
        return kept[..., :steps]


def own_lengths(mask: Tensor) -> Tensor:
    """Steps of each video up to its last valid one; (B, T) in, (B,) out."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * place).amax(1)
