"""Decoder and heads: fused pyramid levels to class scores and distances.

Shapes: B videos, C channels, T_l steps of a level, K classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Block
from model.layers import ChannelNorm, MaskedConv1d, own_precision
from model.mixing import GlobalAttention, local_attention

ATTENTIONS = ("local", "global")
PRIOR = 0.01  # probability of a class at a point before training (focal loss paper)
PRIOR_LOGIT = math.log(PRIOR / (1 - PRIOR))


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

        self.reduce = MaskedConv1d(inputs, channels, 1, bias=False)
        self.norm = ChannelNorm(channels)
        self.blocks = nn.ModuleList(
            Block(channels, heads, mixer(), expansion=expansion, drop_path=drop_path)
            for _ in range(blocks)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, inputs, T_l) in, (B, C, T_l) out."""
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
        """(B, inputs, T_l) in, (B, outputs, T_l) out."""
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

    def forward(self, x: Tensor, mask: Tensor, *, level: int) -> tuple[Tensor, Tensor]:
        """(B, C, T_l) in; logits (B, T_l, K) and distances (B, T_l, K, 2) in strides out."""
        logits = self.classify(x, mask).transpose(1, 2)
        distances = F.relu(self.scale[level] * self.regress(x, mask)).transpose(1, 2)
        distances = distances.unflatten(-1, (-1, 2))
        return logits, distances.expand(*logits.shape, 2)
