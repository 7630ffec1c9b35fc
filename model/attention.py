"""Attention over time, within a modality and across: UnAV's transformer block.

Shapes: B videos, C channels, T steps, H heads, D = C / H.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ChannelNorm, MaskedConv1d


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
        x = self.scale * x
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        coin = torch.rand((x.shape[0], 1, 1), device=x.device, dtype=x.dtype) < keep
        return x * coin / keep


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    """Softmax attention that answers 0 where a query has no valid key.

    Args:
        query: (..., Q, D).
        key: (..., K, D).
        value: (..., K, D).
        valid: (..., Q or 1, K) True where a key may be seen.

    Returns:
        (..., Q, D).
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    logits = logits.masked_fill(~valid, -torch.inf)
    top = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    weights = torch.exp(logits - top.detach())
    total = weights.sum(-1, keepdim=True)
    return (weights @ value) / total.clamp(min=torch.finfo(logits.dtype).tiny)


class Block(nn.Module):
    """Transformer block whose keys and values may come from another stream.

    Separate channel norms of both streams, depthwise convolutions on queries, keys and values
    (which also downsample), attention, then a feed-forward net; both with residual and drop path.
    The attention itself is a module (`model.perception`), full or windowed.

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
        self.heads, self.stride, self.residual = heads, stride, residual
        self.mixer = mixer
        self.norm_query, self.norm_other = ChannelNorm(channels), ChannelNorm(channels)
        for name in ("query", "key", "value"):
            conv = MaskedConv1d(channels, channels, 3, stride=stride, groups=channels, bias=False)
            self.add_module(f"conv_{name}", conv)
            self.add_module(f"norm_conv_{name}", ChannelNorm(channels))
            self.add_module(f"project_{name}", nn.Conv1d(channels, channels, 1))
        self.project_out = nn.Conv1d(channels, channels, 1)
        self.norm_feed = ChannelNorm(channels)
        self.feed = nn.Sequential(
            nn.Conv1d(channels, expansion * channels, 1),
            nn.GELU(),
            nn.Conv1d(expansion * channels, channels, 1),
        )
        self.drop_attention = DropPath(channels, probability=drop_path)
        self.drop_feed = DropPath(channels, probability=drop_path)

    def _split(self, x: Tensor, mask: Tensor, name: str) -> tuple[Tensor, Tensor]:
        x, mask = getattr(self, f"conv_{name}")(x, mask)
        x = getattr(self, f"project_{name}")(getattr(self, f"norm_conv_{name}")(x)) * mask
        batch, channels, steps = x.shape
        return x.view(batch, self.heads, channels // self.heads, steps).transpose(2, 3), mask

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
        q, mask_q = self._split(normed_query, query_mask, "query")
        k, mask_k = self._split(normed_other, other_mask, "key")
        v, _ = self._split(normed_other, other_mask, "value")
        # The other stream at the output's rate, for mixers that choose their own windows.
        features = normed_other[..., :: self.stride] * mask_k
        mixed = self.mixer(q, k, v, mask_k[:, 0], features)  # (B, H, T, D)
        mixed = mixed.transpose(2, 3).reshape(q.shape[0], -1, q.shape[2])
        stream, mask = (query, mask_q) if self.residual == "query" else (other, mask_k)
        if self.stride > 1:
            source_mask = query_mask if self.residual == "query" else other_mask
            # Padding must lose every maximum, or it would leak into the last valid step.
            stream = stream.masked_fill(~source_mask, -torch.inf)
            stream = F.max_pool1d(stream, 3, stride=self.stride, padding=1)
            stream = stream.masked_fill(~mask, 0.0)
        x = stream * mask + self.drop_attention(self.project_out(mixed) * mask)
        x = x + self.drop_feed(self.feed(self.norm_feed(x)) * mask)
        return x, mask
