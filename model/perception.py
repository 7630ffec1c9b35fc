"""Cross-modal dynamic perception: windows whose size and place each head chooses (LoCo, Eqs 6-8).

The one-dimensional form of varied-size window attention (VSA): what the regression sees, how its
two numbers move the samples, and linear interpolation in steps.

Shapes: B videos, C channels, H heads, T steps, D channels of a head, W base window, n windows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.mixing import Context, local_attention

ADAPTATIONS = ("kv", "separate", "query")


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
        return size.float(), offset.float()  # places in bfloat16 would be steps apart


class DynamicPerception(nn.Module):
    """Keys and values sampled from windows whose size and place each head chooses.

    For window w with centre c_w, sample k stands at c_w + (1 + s) r_k + o W / 2 with
    r_k = k - (W - 1) / 2, in steps; values between two steps are interpolated linearly. A sample
    whose interpolated validity is under one half is not seen, nor is any sample of a window in
    which nothing exists: the bias alone would choose its place. The sampled windows, side by side,
    are attended to by local attention.

    Args:
        channels: C of the features that the adaptation reads.
        heads: H.
        window: Base window W.
        band: See `model.mixing.local_attention`.
        adaptation: Whose features choose the windows: ``kv`` the other stream's, once for keys
            and values; ``separate`` the keys' and the values' each for itself; ``query``.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        *,
        band: str = "half",
        adaptation: str = "kv",
    ) -> None:
        super().__init__()
        if adaptation not in ADAPTATIONS:
            raise ValueError(f"unknown adaptation {adaptation!r}: use one of {ADAPTATIONS}")
        self.window, self.adaptation = window, adaptation
        self.adapt = WindowAdaptation(channels, heads, window)
        self.adapt_value = (
            WindowAdaptation(channels, heads, window) if adaptation == "separate" else None
        )
        self.attend = local_attention(window, band)

    def moves(self, adapt: WindowAdaptation, features: Tensor, valid: Tensor) -> Tensor:
        """How far each sample is taken from its own step, (B, H, n·W) in steps; T may be any."""
        lack = -features.shape[-1] % self.window
        if lack:
            features, valid = F.pad(features, (0, lack)), F.pad(valid, (0, lack))
        size, offset = adapt(features, valid)
        steps = torch.arange(self.window, device=size.device, dtype=size.dtype)
        relative = steps - (self.window - 1) / 2
        moved = (offset * (self.window / 2)).unsqueeze(-1) + size.unsqueeze(-1) * relative
        return moved.flatten(2)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        valid: Tensor,
        context: Context | None = None,
    ) -> Tensor:
        """As `model.mixing.GlobalAttention`; ``context`` decides the windows.

        ``valid`` must be False where keys and values are zero for want of a step.
        """
        assert context is not None
        steps = query.shape[2]
        if self.adaptation == "query":
            moves = self.moves(self.adapt, context.query, context.query_valid)
            exists = valid | context.query_valid
        else:
            moves = self.moves(self.adapt, context.key, valid)
            exists = valid
        if self.adapt_value is None:
            both, seen = sample(torch.cat([key, value], dim=-1), valid, moves)
            key, value = both.chunk(2, dim=-1)
        else:
            key, seen = sample(key, valid, moves)
            value_moves = self.moves(self.adapt_value, context.value, valid)
            value, value_seen = sample(value, valid, value_moves)
            seen = seen & value_seen
        lack = key.shape[2] - steps
        if lack:
            exists, query = F.pad(exists, (0, lack)), F.pad(query, (0, 0, 0, lack))
        chosen = exists.unflatten(1, (-1, self.window)).any(2)
        seen = seen & chosen.repeat_interleave(self.window, 1)[:, None]
        return self.attend(query, key, value, seen)[:, :, :steps]


def sample(x: Tensor, valid: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Linear interpolation at fractional steps; what lies outside counts as zero and unseen.

    By gathering the two neighbours: the round trip of ``grid_sample`` through [-1, 1] would not
    return whole steps exactly. Moves and not places, which in float32 are the less exact the later
    in a video they lie: the same moment would be read differently by pieces that start elsewhere.

    Args:
        x: (B, H, T, D), zero where not valid.
        valid: (B, T).
        moves: (B, H, T') in steps: sample k is taken at k + move.

    Returns:
        (B, H, T', D), and which of the samples may be seen, (B, H, T').
    """
    steps = x.shape[2]
    whole = moves.floor()
    share = moves - whole
    left = whole + torch.arange(moves.shape[2], device=moves.device, dtype=moves.dtype)
    mask = valid[:, None].expand(-1, x.shape[1], -1)
    index = torch.stack([left, left + 1], dim=2)  # (B, H, 2, T')
    weight = torch.stack([1 - share, share], dim=2) * ((index >= 0) & (index < steps))
    source = index.nan_to_num().clamp(0, steps - 1).long().flatten(2)
    taken = x.gather(2, source.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))
    value = (weight.unsqueeze(-1).to(x.dtype) * taken.unflatten(2, (2, -1))).sum(2)
    validity = (weight * mask.gather(2, source).unflatten(2, (2, -1))).sum(2)
    return value, validity >= 0.5
