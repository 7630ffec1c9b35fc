"""Cross-modal dynamic perception: which keys a query may look at (LoCo, Eqs 6-8).

Shapes: B videos, H heads, T steps, D channels of a head, W base window, n windows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import attend


class GlobalAttention(nn.Module):
    """Every query sees every valid key."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """(B, H, T, D) three times, ``valid`` (B, T); returns (B, H, T, D)."""
        return attend(query, key, value, valid[:, None, None, :])


class SlidingAttention(nn.Module):
    """Query i sees keys j with |i - j| <= radius; memory grows linearly with T."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """As `GlobalAttention`; ``valid`` may be (B, T) or (B, H, T)."""
        if valid.dim() == 2:
            valid = valid[:, None].expand(-1, query.shape[1], -1)
        span = 2 * self.radius + 1
        pad = (0, 0, self.radius, self.radius)
        keys = F.pad(key, pad).unfold(2, span, 1)  # (B, H, T, D, span)
        values = F.pad(value, pad).unfold(2, span, 1)
        seen = F.pad(valid, (self.radius, self.radius)).unfold(2, span, 1)  # (B, H, T, span)
        logits = (query.unsqueeze(3) @ keys).squeeze(3) / query.shape[-1] ** 0.5
        logits = logits.masked_fill(~seen, -torch.inf)
        top = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
        weights = torch.exp(logits - top.detach())
        total = weights.sum(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
        return ((weights / total).unsqueeze(3) * values).sum(-1)


class WindowAdaptation(nn.Module):
    """A size and an offset for each window and head (Eq 7), zero at the start of training.

    Average pool over the window, LeakyReLU, 1x1 convolution. Padded steps do not enter the mean.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.regress = nn.Conv1d(channels, 2 * heads, 1)
        nn.init.zeros_(self.regress.weight)
        assert self.regress.bias is not None
        nn.init.zeros_(self.regress.bias)

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) and (B, T), T a multiple of W; returns size and offset, each (B, H, n)."""
        weight = valid[:, None].to(features.dtype)
        total = F.avg_pool1d(features * weight, self.window)
        share = F.avg_pool1d(weight, self.window)
        pooled = total / share.clamp(min=1.0 / (2 * self.window))
        size, offset = self.regress(F.leaky_relu(pooled, 0.01)).chunk(2, dim=1)
        return size, offset


class DynamicPerception(nn.Module):
    """Keys and values sampled from windows whose size and place each head chooses (Eqs 6-8).

    For window w with centre c_w, sample k stands at c_w + (1 + s) r_k + o W / 2 with
    r_k = k - (W - 1) / 2, in steps; values between two steps are interpolated linearly. A sample
    whose interpolated validity is under one half is not seen. The sampled windows, side by side,
    are attended to by sliding attention.

    Args:
        channels: C of the features that the adaptation reads.
        heads: H.
        window: Base window W.
        radius: Of the sliding attention; W / 2 when omitted.
    """

    def __init__(
        self, channels: int, heads: int, window: int, *, radius: int | None = None
    ) -> None:
        super().__init__()
        self.window = window
        self.adapt = WindowAdaptation(channels, heads, window)
        self.attend = SlidingAttention(window // 2 if radius is None else radius)

    def positions(self, features: Tensor, valid: Tensor) -> Tensor:
        """Where each sample is taken: (B, H, T) in steps."""
        size, offset = self.adapt(features, valid)  # (B, H, n)
        windows = size.shape[-1]
        steps = torch.arange(self.window, device=size.device, dtype=size.dtype)
        relative = steps - (self.window - 1) / 2
        centres = torch.arange(windows, device=size.device, dtype=size.dtype) * self.window
        centres = centres + (self.window - 1) / 2 + offset * self.window / 2
        # Written so that zero size and offset give whole numbers exactly.
        places = centres.unsqueeze(-1) + relative + size.unsqueeze(-1) * relative
        return places.flatten(2)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """As `GlobalAttention`, with the (B, C, T) features that decide the windows."""
        assert features is not None
        steps = query.shape[2]
        lack = -steps % self.window
        valid = F.pad(valid, (0, lack))
        places = self.positions(F.pad(features, (0, lack)), valid)
        key, value = (F.pad(x, (0, 0, 0, lack)) for x in (key, value))
        key, value, seen = sample(key, value, valid, places)
        return self.attend(F.pad(query, (0, 0, 0, lack)), key, value, seen)[:, :, :steps]


def sample(
    key: Tensor,
    value: Tensor,
    valid: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation at fractional steps; what lies outside counts as zero and unseen.

    Args:
        key: (B, H, T, D), zero where not valid.
        value: (B, H, T, D), likewise.
        valid: (B, T).
        places: (B, H, T') fractional steps.

    Returns:
        Keys and values (B, H, T', D), and which of them may be seen, (B, H, T').
    """
    steps = key.shape[2]
    left = places.floor()
    share = (places - left).unsqueeze(-1)
    mask = valid[:, None, :, None].expand(-1, key.shape[1], -1, 1).to(key.dtype)
    stacked = torch.cat([key, value, mask], dim=-1)

    def take(index: Tensor) -> Tensor:
        inside = (index >= 0) & (index < steps)
        index = index.clamp(0, steps - 1).long().unsqueeze(-1)
        return stacked.gather(2, index.expand(-1, -1, -1, stacked.shape[-1])) * inside.unsqueeze(-1)

    taken = (1 - share) * take(left) + share * take(left + 1)
    width = key.shape[-1]
    return taken[..., :width], taken[..., width : 2 * width], taken[..., -1] >= 0.5
