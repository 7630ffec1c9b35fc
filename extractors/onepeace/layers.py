"""The transformer that ONE-PEACE's branches share.

Source: Wang et al., "ONE-PEACE: Exploring One General Representation Model Toward Unlimited
Modalities", 2023. Attention and norms are the same for all modalities, the feed-forward part is
each modality's own.

Shapes: N items, L tokens with the class token first, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.onepeace.spec import OnePeaceSize

NORM_EPS = 1e-5
BIAS_ALIGNMENT = 8  # values; fused attention kernels want rows of the bias to start so


class Attention(nn.Module):
    """Self-attention with a norm between the heads and the output projection."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.q_proj = nn.Linear(size.dim, size.dim)
        self.k_proj = nn.Linear(size.dim, size.dim, bias=False)
        self.v_proj = nn.Linear(size.dim, size.dim)
        self.ln = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.out_proj = nn.Linear(size.dim, size.dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend among the tokens of each item.

        Args:
            x: (N, L, D).
            bias: (1 or N, H, L, L) added to the logits.

        Returns:
            (N, L, D).
        """
        heads = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        query, key, value = (
            project(x).view(heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out_proj(self.ln(mixed.transpose(1, 2).reshape(x.shape)))


class GatedUnit(nn.Module):
    """GELU(W0 x) * W1 x, with the exact GELU."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(size.dim, size.ffn, bias=False)
        self.wi_1 = nn.Linear(size.dim, size.ffn, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., ffn)."""
        return F.gelu(self.wi_0(x)) * self.wi_1(x)


def feed_forward(size: OnePeaceSize) -> nn.Sequential:
    """Gated unit, norm, projection back: (..., D) to (..., D)."""
    return nn.Sequential(
        GatedUnit(size),
        nn.Identity(),  # keeps the numbers of the public keys, which have a dropout here
        nn.LayerNorm(size.ffn, eps=NORM_EPS),
        nn.Linear(size.ffn, size.dim),
    )


class Layer(nn.Module):
    """Pre-norm transformer layer whose two parts are scaled channel by channel."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.self_attn = Attention(size)
        self.gamma_1 = nn.Parameter(torch.ones(size.dim))
        self.final_layer_norm = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.ffn = feed_forward(size)
        self.gamma_2 = nn.Parameter(torch.ones(size.dim))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, L, D) and (1 or N, H, L, L) to (N, L, D)."""
        x = x + self.gamma_1 * self.self_attn(self.self_attn_layer_norm(x), bias)
        return x + self.gamma_2 * self.ffn(self.final_layer_norm(x))


def run_layers(
    layers: Iterable[nn.Module], x: Tensor, biases: Sequence[Tensor], padding: Tensor | None = None
) -> Tensor:
    """Tokens through all layers.

    Args:
        layers: Of `Layer`.
        x: (N, L, D).
        biases: Of each layer, (1 or N, H, L, L).
        padding: (N, L) True for tokens that stand for nothing: they are zeros, and no other token
            attends to them; None for none.

    Returns:
        (N, L, D).
    """
    if padding is not None:
        x = x.masked_fill(padding[:, :, None], 0.0)
        biases = [bias.masked_fill(padding[:, None, None], -torch.inf) for bias in biases]
    for layer, bias in zip(layers, biases, strict=True):
        x = layer(x, bias)
    return x


class RelativePositions(nn.Module):
    """Bias of each head on each pair of tokens, read from a table of their relative positions.

    Args:
        size: Measures of the branch.
        rows: Rows of each table.
    """

    def __init__(self, size: OnePeaceSize, rows: int) -> None:
        super().__init__()
        shape = (rows, size.heads)
        self.tables = nn.ParameterList(torch.zeros(shape) for _ in range(size.position_tables))

    def forward(self, buckets: NDArray[np.int64], *, layers: int) -> list[Tensor]:
        """Bias of every layer.

        Args:
            buckets: (L, L) row of the table for each query and key.
            layers: Number of layers.

        Returns:
            ``layers`` tensors of (1, H, L, L); the same one over and over where they share a table.
        """
        places = torch.from_numpy(buckets).to(self.tables[0].device)
        biases = [_aligned(table[places].permute(2, 0, 1)[None]) for table in self.tables]
        return biases * (layers // len(biases))


class PatchEmbedding(nn.Sequential):
    """Three convolutions from pixels to one vector a patch of 16x16."""

    def __init__(self, size: OnePeaceSize) -> None:
        narrow = size.patch_channels
        super().__init__(
            nn.Conv2d(3, narrow, 4, 4),
            ChannelNorm(narrow, eps=NORM_EPS),
            nn.GELU(),
            nn.Conv2d(narrow, narrow, 2, 2),
            ChannelNorm(narrow, eps=NORM_EPS),
            nn.GELU(),
            nn.Conv2d(narrow, size.dim, 2, 2),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) to (N, patches, D), row by row."""
        return super().forward(pictures).flatten(2).transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the second dimension of (N, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class PictureAdapter(nn.Module):
    """From pixels to tokens: patches behind a class token, and where each of them lies."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.grid = size.image_side // 16
        self.patches = PatchEmbedding(size)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.pos_embed = nn.Parameter(torch.zeros(self.grid**2 + 1, size.dim))
        self.positions = RelativePositions(size, (2 * self.grid - 1) ** 2 + 3)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) normalised RGB to (N, 1 + patches, D)."""
        patches = self.patches(pictures)
        cls = self.cls_embedding.expand(len(patches), -1, -1)
        return torch.cat([cls, patches], dim=1) + self.pos_embed

    def biases(self, *, layers: int) -> list[Tensor]:
        """Attention bias of every layer, (1, H, 1 + patches, 1 + patches) each."""
        return self.positions(picture_buckets(self.grid), layers=layers)


def picture_buckets(grid: int) -> NDArray[np.int64]:
    """Row of the table for each pair of a class token and ``grid`` x ``grid`` patches.

    (dy + grid - 1) * (2 grid - 1) + (dx + grid - 1), query minus key; the three rows behind are for
    the class token as query, as key, and as both.
    """
    place = np.arange(grid)
    y, x = (axis.ravel() for axis in np.meshgrid(place, place, indexing="ij"))
    width = 2 * grid - 1
    inner = (y[:, None] - y + grid - 1) * width + (x[:, None] - x + grid - 1)
    return _with_class_token(inner, first_free=width**2)


def sequence_buckets(length: int, *, buckets: int, longest: int = 1024) -> NDArray[np.int64]:
    """Row of the table for each pair of a class token and ``length`` tokens in a row.

    Distances up to half of ``buckets`` have a row each, longer ones share rows on a logarithmic
    scale that ends at ``longest``.
    """
    place = np.arange(length)
    distance = place[:, None] - place
    near = buckets // 2
    far = np.maximum(np.abs(distance), near)
    scaled = near + np.ceil(np.log(far / near) / np.log((longest - 1) / near) * (near - 1))
    inner = np.where(np.abs(distance) <= near, distance, np.sign(distance) * scaled)
    rows = inner.astype(np.int64) + buckets - 1
    return _with_class_token(rows, first_free=2 * buckets - 1)


def _with_class_token(inner: NDArray[np.int64], *, first_free: int) -> NDArray[np.int64]:
    rows = np.full((len(inner) + 1,) * 2, first_free, np.int64)
    rows[1:, 1:] = inner
    rows[1:, 0] = first_free + 1
    rows[0, 0] = first_free + 2
    return rows


def _aligned(bias: Tensor) -> Tensor:
    length = bias.shape[-1]
    return F.pad(bias, (0, -length % BIAS_ALIGNMENT))[..., :length]
