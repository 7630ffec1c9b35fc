"""Attention over all steps, or over near ones: the choices of which keys a query may look at.

Every mixer takes queries, keys and values (B, H, T, D), the validity of the keys and, where it
chooses its own windows, the features that decide (`Context`); it returns (B, H, T, D), 0 for a
query without a valid key. Windows that are chosen are in
`model.perception`.

Shapes: B videos, H heads, T steps, D channels of a head, W base window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDS = ("half", "full", "window")


@dataclass(frozen=True, slots=True)
class Context:
    """What a mixer may decide its windows from, at the rate of the keys.

    Attributes:
        query: (B, C, T) downsampled and normed features behind the queries.
        key: (B, C, T) those behind the keys.
        value: (B, C, T) those behind the values.
        query_valid: (B, T) steps that the query stream has.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_valid: Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor) -> Tensor:
    """Softmax attention that answers 0 where a query has no valid key.

    Args:
        query: (..., Q, D).
        key: (..., K, D).
        value: (..., K, D).
        valid: Broadcasts to (..., Q, K); True where a key may be seen.

    Returns:
        (..., Q, D).
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    # The least finite number instead of -inf: a row without any valid key stays free of NaN.
    weights = logits.masked_fill(~valid, torch.finfo(logits.dtype).min).softmax(-1)
    return (weights @ value) * valid.any(-1, keepdim=True)


class GlobalAttention(nn.Module):
    """Every query sees every valid key."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor,
        context: Context | None = None,
    ) -> Tensor:
        """(B, H, T, D) three times, ``valid`` (B, T); returns (B, H, T, D)."""
        some = valid.any(1)[:, None]
        # A video without any valid key looks at all, and its answer is wiped.
        seen = (valid | ~some)[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return mixed * some[..., None, None]


class SlidingAttention(nn.Module):
    """Query i sees keys j with |i - j| <= radius; time and memory grow linearly with T.

    Computed by blocks of queries against the keys of the block and ``radius`` to either side.

    Args:
        radius: Steps to either side; with ``bridge=False`` it is not used.
        block: Queries of a block; the radius, at least 8, when omitted. Changes no result.
        bridge: Without it a query sees the keys of its own block only.
    """

    def __init__(self, radius: int, *, block: int | None = None, bridge: bool = True) -> None:
        super().__init__()
        self.radius = radius if bridge else 0
        self.block = block or max(8, radius)
        self.bridge = bridge
        self.band: Tensor
        self.register_buffer("band", self._band(), persistent=False)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor,
        context: Context | None = None,
    ) -> Tensor:
        """As `GlobalAttention`; ``valid`` may be (B, T) or (B, H, T)."""
        steps, radius = query.shape[2], self.radius
        lack = -steps % self.block
        span = self.block + 2 * radius
        if lack:
            query = F.pad(query, (0, 0, 0, lack))
        queries = query.unflatten(2, (-1, self.block))
        keys, values = (
            F.pad(x, (0, 0, radius, radius + lack)).unfold(2, span, self.block).transpose(3, 4)
            for x in (key, value)
        )  # (B, H, n, span, D)
        seen = F.pad(valid, (radius, radius + lack)).unfold(-1, span, self.block)
        seen = seen.unsqueeze(-2) & self.band  # (B, [H,] n, block, span)
        if valid.dim() == 2:
            seen = seen.unsqueeze(1)
        return attend(queries, keys, values, seen).flatten(2, 3)[:, :, :steps]

    def _band(self) -> Tensor:
        """(block, span) True where a key of the span is near enough to a query of the block."""
        span = self.block + 2 * self.radius
        place = torch.arange(span) - self.radius
        distance = place - torch.arange(self.block)[:, None]
        return distance.abs() <= (self.radius if self.bridge else span)


def local_attention(window: int, band: str) -> SlidingAttention:
    """The attention over stacked windows (Eq 8).

    Args:
        window: Base window W.
        band: ``half`` looks floor(W / 2) steps to either side (the paper's words), ``full``
            W - 1, so that every query of a window reaches all of it; ``window`` stays inside the
            window, without bridges to its neighbours.
    """
    if band not in BANDS:
        raise ValueError(f"unknown band {band!r}: use one of {BANDS}")
    radius = window // 2 if band == "half" else window - 1
    return SlidingAttention(radius, block=window, bridge=band != "window")
