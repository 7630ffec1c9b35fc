"""Attention over time, within a modality and across: UnAV's transformer block.

Shapes: B videos, C channels, T steps, H heads, D = C / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ChannelNorm, MaskedConv1d, PointConv1d, zero_biases
from model.mixing import Context, GlobalAttention

PARTS = ("query", "key", "value")
RESIDUALS = ("query", "kv")


class DropPath(nn.Module):
    """Stochastic depth per sample, with a learned gain per channel (init 1e-4).

    Source: AffineDropPath of ActionFormer.
    """

    def __init__(self, channels: int, *, probability: float, gain: float = 1e-4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1), gain))
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) scaled; in training whole samples are dropped and the others scaled up."""
        if not self.training or self.probability == 0.0:
            return self.scale * x
        keep = 1.0 - self.probability
        coin = torch.rand((x.shape[0], 1, 1), device=x.device, dtype=x.dtype) < keep
        return x * (self.scale * (coin.to(x.dtype) / keep))


class Block(nn.Module):
    """Transformer block whose keys and values may come from another stream.

    Separate channel norms of both streams, depthwise convolutions on queries, keys and values
    (which also downsample), attention, then a feed-forward net; both with residual and drop path.
    The attention itself is a module (`model.mixing`, `model.perception`), full or windowed.

    Args:
        channels: C.
        heads: H.
        mixer: Attention over (B, H, T, D) queries, keys and values with masks.
        stride: 2 halves the rate.
        expansion: Width of the feed-forward net over C.
        drop_path: Probability.
        residual: ``query`` or ``kv``: the stream that the residual follows.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        mixer: nn.Module,
        *,
        stride: int = 1,
        expansion: int = 4,
        drop_path: float = 0.1,
        residual: str = "query",
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not split into {heads} heads")
        if residual not in RESIDUALS:
            raise ValueError(f"unknown residual {residual!r}: use one of {RESIDUALS}")
        self.heads, self.stride, self.residual = heads, stride, residual
        self.mixer = mixer
        self.norm_query, self.norm_other = ChannelNorm(channels), ChannelNorm(channels)
        for name in PARTS:
            conv = MaskedConv1d(channels, channels, 3, stride=stride, groups=channels, bias=False)
            self.add_module(f"conv_{name}", conv)
            self.add_module(f"norm_conv_{name}", ChannelNorm(channels))
            self.add_module(f"project_{name}", PointConv1d(channels, channels))
        self.project_out = PointConv1d(channels, channels)
        self.norm_feed = ChannelNorm(channels)
        self.feed = nn.Sequential(
            PointConv1d(channels, expansion * channels),
            nn.GELU(),
            PointConv1d(expansion * channels, channels),
        )
        self.drop_attention = DropPath(channels, probability=drop_path)
        self.drop_feed = DropPath(channels, probability=drop_path)
        zero_biases(self)

    def _part(self, x: Tensor, mask: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the output's rate (B, C, T'), their projection (B, H, T', D), the mask.

        The projection is zero where masked; the features are not, and come with the mask.
        """
        mask = mask[..., :: self.stride]
        # Past the convolution's own mask: the norm would fill its zeros again.
        x = getattr(self, f"norm_conv_{name}")(getattr(self, f"conv_{name}").conv(x))
        heads = (getattr(self, f"project_{name}")(x) * mask).unflatten(1, (self.heads, -1))
        return x, heads.transpose(2, 3), mask

    def _downsample(self, x: Tensor, mask: Tensor) -> Tensor:
        """The residual at the output's rate: max-pool, in which padding loses every maximum.

        UnAV pools over zeros in the padding, which changes the last valid step.
        """
        if self.stride == 1:
            return x * mask
        pooled = F.max_pool1d(
            x.masked_fill(~mask, -torch.inf), 3, stride=self.stride, padding=1
        )  # a step of the output has at least its own input, unless it is masked
        return pooled.masked_fill(~mask[..., :: self.stride], 0.0)

    def forward(
        self,
        query: Tensor,
        other: Tensor,
        query_mask: Tensor,
        other_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Queries look at the other stream; (B, C, T) and (B, 1, T) in, T / stride out."""
        normed_query = self.norm_query(query) * query_mask
        normed_other = self.norm_other(other) * other_mask
        query_features, q, mask_q = self._part(normed_query, query_mask, "query")
        key_features, k, mask_k = self._part(normed_other, other_mask, "key")
        value_features, v, _ = self._part(normed_other, other_mask, "value")
        context = Context(query_features, key_features, value_features, mask_q[:, 0])
        mixed = self.mixer(q, k, v, mask_k[:, 0], context)  # (B, H, T', D)
        mixed = self.project_out(mixed.transpose(2, 3).flatten(1, 2))
        if self.residual == "query":
            x, mask = self._downsample(query, query_mask), mask_q
        else:
            x, mask = self._downsample(other, other_mask), mask_k
        x = x + self.drop_attention(mixed * mask)
        x = x + self.drop_feed(self.feed(self.norm_feed(x)) * mask)
        return x, mask


class UnimodalBlocks(nn.Module):
    """Self-attention over the whole sequence, within one modality."""

    def __init__(self, channels: int, heads: int, *, blocks: int, drop_path: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, GlobalAttention(), drop_path=drop_path) for _ in range(blocks)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T) and (B, 1, T) in, (B, C, T) out."""
        for block in self.blocks:
            x, _ = block(x, x, mask, mask)
        return x
