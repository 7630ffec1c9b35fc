"""What the anchors know, brought to every step: CLASP's ATP.

Shapes: B videos, C channels, T steps, N anchors, H heads, D = C / H.

Source: arXiv 2508.04566 states that the joined anchors enhance the event semantics of the original
features of both modalities. The operators are this project's reconstruction; ``threshold`` follows
positive sample propagation (Zhou et al., CVPR 2021).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ChannelNorm, zero_biases

OPERATORS = ("attention", "threshold", "none")
GATES = ("step", "channel")
SCORE_FLOOR = 1e-3  # an anchor of no agreement still has a finite weight


class Propagation(nn.Module):
    """One modality's stream, enhanced by the anchors.

    R = softmax(LN(F) Wq (U Wk)^T / sqrt(D) + log(s + 1e-3)) U Wv Wo, H = F + g R with the gate
    g = sigmoid([F ; R] w), then a feed-forward net with residual. The gate lets background refuse
    the event semantics; without it attention makes every step look like an anchor. A second way to
    refuse, not of the paper, is an anchor that stands for nothing (``rest``): where no other
    resembles the step, the weight of the softmax goes there.

    Args:
        channels: C.
        heads: H.
        operator: ``attention``; ``threshold`` rectifies and normalises the similarities and drops
            small weights; ``none`` returns the stream (ablation).
        threshold: Of the weights that are not dropped, over the even weight 1 / N; the source's
            0.095 for 10 steps is 0.95.
        gate: One for the whole ``step``, or one for each ``channel``.
        rest: Whether there is one learned anchor more, of full agreement in every video.
        expansion: Width of the feed-forward net over C.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        operator: str = "attention",
        threshold: float = 0.95,
        gate: str = "step",
        rest: bool = False,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        if operator not in OPERATORS:
            raise ValueError(f"unknown propagation {operator!r}: use one of {OPERATORS}")
        if gate not in GATES:
            raise ValueError(f"unknown gate {gate!r}: use one of {GATES}")
        if channels % heads:
            raise ValueError(f"{channels} channels do not split into {heads} heads")
        self.heads, self.operator, self.threshold = heads, operator, threshold
        if operator == "none":
            return
        self.norm = ChannelNorm(channels)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.out = nn.Conv1d(channels, channels, 1)
        self.gate = nn.Conv1d(2 * channels, channels if gate == "channel" else 1, 1)
        self.rest = nn.Parameter(0.02 * torch.randn(channels)) if rest else None
        self.norm_feed = ChannelNorm(channels)
        self.feed = nn.Sequential(
            nn.Conv1d(channels, expansion * channels, 1),
            nn.GELU(),
            nn.Conv1d(expansion * channels, channels, 1),
        )
        zero_biases(self)

    def forward(
        self, stream: Tensor, mask: Tensor, anchors: Tensor, valid: Tensor, score: Tensor
    ) -> Tensor:
        """The enhanced stream (B, C, T).

        Args:
            stream: (B, C, T).
            mask: (B, 1, T).
            anchors: (B, N, C).
            valid: (B, N) anchors that exist; a video without any passes unchanged but for the
                feed-forward net.
            score: (B, N) agreement at the anchors, in [0, 1].
        """
        if self.operator == "none":
            return stream
        any_anchor = valid.any(1)[:, None, None]
        if self.rest is not None:
            anchors = torch.cat([anchors, self.rest.expand(len(anchors), 1, -1)], 1)
            valid, score = F.pad(valid, (0, 1), value=True), F.pad(score, (0, 1), value=1.0)
        query = self.query(self.norm(stream)).unflatten(1, (self.heads, -1)).transpose(2, 3)
        key, value = (
            linear(anchors).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear in (self.key, self.value)
        )  # (B, H, N, D)
        read = self._read(query, key, value, valid, score)
        read = self.out(read.transpose(2, 3).flatten(1, 2)) * any_anchor
        gate = self.gate(torch.cat([stream, read], 1)).sigmoid()
        x = stream + gate * read * mask
        return x + self.feed(self.norm_feed(x)) * mask

    def _read(
        self, query: Tensor, key: Tensor, value: Tensor, valid: Tensor, score: Tensor
    ) -> Tensor:
        """(B, H, T, D) from queries (B, H, T, D) and anchors (B, H, N, D)."""
        seen = valid[:, None, None, :]
        if self.operator == "threshold":
            weight = F.relu(query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])) * seen
            weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
            count = valid.sum(1)[:, None, None, None].clamp(min=1)
            return (weight * (weight > self.threshold / count)) @ value
        bias = (score + SCORE_FLOOR).log().to(query.dtype)
        # The least finite number instead of -inf: a video without anchors stays free of NaN.
        bias = bias.masked_fill(~valid, torch.finfo(query.dtype).min)[:, None, None, :]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
