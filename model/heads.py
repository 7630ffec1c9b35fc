"""Decoder and heads: fused pyramid levels to class scores and distances.

Both are shared by all levels. They see these side by side in one row, with masked steps in between:
an operation on six levels, of which five are short, costs little more than on the first.

Shapes: B videos, C channels, T_l steps of a level, P = sum of T_l, R steps of a row, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Block
from model.layers import ChannelNorm, MaskedConv1d, own_precision
from model.mixing import GlobalAttention, local_attention

ATTENTIONS = ("local", "global")
PRIOR = 0.01  # probability of a class at a point before training (focal loss paper)
PRIOR_LOGIT = math.log(PRIOR / (1 - PRIOR))


@dataclass(frozen=True, slots=True)
class Row:
    """Levels side by side.

    Attributes:
        x: (B, C, R), zero where masked.
        mask: (B, 1, R) False between two levels.
        starts: First step of each level.
        lengths: T_l of each level.
    """

    x: Tensor
    mask: Tensor
    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    def levels(self, x: Tensor) -> list[Tensor]:
        """What ``x`` (B, R, ...) has of each level, (B, T_l, ...)."""
        return [
            x[:, start : start + steps]
            for start, steps in zip(self.starts, self.lengths, strict=True)
        ]


def side_by_side(levels: Sequence[tuple[Tensor, Tensor]], *, gap: int) -> Row:
    """Levels in one row.

    Args:
        levels: Of each (B, C, T_l) and its mask (B, 1, T_l), finest first.
        gap: Masked steps between two; what looks no further than these never sees another level.
    """
    lengths = tuple(x.shape[-1] for x, _ in levels)
    starts = tuple(sum(lengths[:level]) + level * gap for level in range(len(levels)))
    spaces = [gap] * (len(levels) - 1) + [0]
    x, mask = (
        torch.cat([F.pad(part, (0, space)) for part, space in zip(parts, spaces, strict=True)], -1)
        for parts in zip(*levels, strict=True)
    )
    return Row(x, mask, starts, lengths)


class Decoder(nn.Module):
    """Reduce the joined streams and fuse them with light transformer blocks, shared by all levels.

    Args:
        inputs: Channels of the joined streams.
        channels: C of the result.
        blocks: Number of blocks; 0 leaves the reduction alone.
        heads: Attention heads.
        window: Blocks with ``local`` attention see half of it to either side.
        attention: ``local``, which is linear in T, or ``global``.
        expansion: Width of the blocks' feed-forward net over C.
        drop_path: Probability.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        blocks: int,
        heads: int,
        window: int,
        attention: str,
        expansion: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ValueError(f"unknown attention {attention!r}: use one of {ATTENTIONS}")

        def mixer() -> nn.Module:
            return local_attention(window, "half") if attention == "local" else GlobalAttention()

        self.gap = 1  # the towers' convolutions look one step to either side
        if attention == "local" and blocks:
            self.gap = max(self.gap, window // 2)
        self.shares_row = attention == "local" or not blocks
        self.reduce = MaskedConv1d(inputs, channels, 1, bias=False)
        self.norm = ChannelNorm(channels)
        self.blocks = nn.ModuleList(
            Block(channels, heads, mixer(), expansion=expansion, drop_path=drop_path)
            for _ in range(blocks)
        )

    def forward(self, levels: Sequence[tuple[Tensor, Tensor]]) -> Row:
        """Of each level (B, inputs, T_l) and mask (B, 1, T_l) in, all with C channels out."""
        if self.shares_row:
            row = side_by_side(levels, gap=self.gap)
            return replace(row, x=self._fuse(row.x, row.mask))
        # Global attention over a row would compare all levels with all.
        return side_by_side([(self._fuse(x, mask), mask) for x, mask in levels], gap=self.gap)

    def _fuse(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.relu(self.norm(self.reduce(x, mask)[0])) * mask
        for block in self.blocks:
            x, _ = block(x, x, mask, mask)
        return x


class Tower(nn.Module):
    """Convolutions with norm and ReLU, then one to the outputs; shared by all levels."""

    def __init__(self, inputs: int, channels: int, outputs: int, *, layers: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            MaskedConv1d(inputs if layer == 0 else channels, channels, 3, bias=False)
            for layer in range(layers - 1)
        )
        self.norms = nn.ModuleList(ChannelNorm(channels) for _ in range(layers - 1))
        self.out = MaskedConv1d(channels, outputs, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, inputs, R) in, (B, outputs, R) out."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, mask)[0])) * mask
        # In bfloat16 scores would tie, and long distances would be steps apart.
        x = x.to(self.out.conv.weight.dtype)
        with own_precision(x):
            return self.out(x, mask)[0]


class Heads(nn.Module):
    """Class logits, and distances to start and end for each class.

    Args:
        channels: C, width of the towers.
        classes: K.
        levels: Each level has its own learned scale of distances.
        inputs: Channels of the features; C when omitted.
        distance_bias: Distances at the start, in strides. With 0, the public code's value, half of
            them start on the side of the ReLU that has no gradient, and on little data some never
            leave it: their events keep a start or an end at the point itself.
        prior: Probability of a class at a point at the start (focal loss paper).
        class_aware: Whether each class has distances of its own; without, all share one pair.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        levels: int,
        inputs: int | None = None,
        distance_bias: float = 2.0,
        prior: float = PRIOR,
        class_aware: bool = True,
    ) -> None:
        super().__init__()
        self.classify = Tower(inputs or channels, channels, classes)
        self.regress = Tower(inputs or channels, channels, 2 * classes if class_aware else 2)
        for tower, start in (
            (self.classify, math.log(prior / (1 - prior))),
            (self.regress, distance_bias),
        ):
            bias = tower.out.conv.bias
            assert bias is not None
            nn.init.constant_(bias, start)
        self.scale = nn.Parameter(torch.ones(levels))

    def forward(self, row: Row) -> tuple[Tensor, Tensor]:
        """Logits (B, P, K) and distances (B, P, K, 2) in strides of the point's level."""
        logits = self.classify(row.x, row.mask).transpose(1, 2)
        regressed = row.levels(self.regress(row.x, row.mask).transpose(1, 2))
        scaled = [scale * level for scale, level in zip(self.scale, regressed, strict=True)]
        logits = torch.cat(row.levels(logits), 1)
        distances = F.relu(torch.cat(scaled, 1)).unflatten(-1, (-1, 2))
        return logits, distances.expand(*logits.shape, 2)
