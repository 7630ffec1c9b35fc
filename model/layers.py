"""Masked layers that all blocks share.

Shapes: B videos, C channels, T steps. Features are (B, C, T), masks (B, 1, T) boolean; every layer
returns zeros where its mask is False, so that padding never reaches a valid step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, T), with gain and bias per channel."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each step; (B, C, T) in and out."""
        return F.layer_norm(
            x.transpose(1, 2), (x.shape[1],), self.weight, self.bias, self.eps
        ).transpose(1, 2)


class PointConv1d(nn.Conv1d):
    """Convolution of width 1, computed as the product of matrices that it is.

    Names, shapes and starting values of its weights are those of ``nn.Conv1d``. The result lies in
    memory as (B, T, C), as the norms leave it and as attention and the next product want it:
    training copies less and holds less.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) in, (B, outputs, T) out."""
        return F.linear(x.transpose(1, 2), self.weight[..., 0], self.bias).transpose(1, 2)


class TimeConv1d(nn.Conv1d):
    """Convolution over time that leaves its result in memory as (B, T, C), as `PointConv1d` does.

    Names, shapes and starting values of its weights are those of ``nn.Conv1d``, which copies its
    input to (B, C, T) and leaves its result so, for the norms to copy it back. A convolution over
    pictures of height 1 takes either order as it comes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) in, (B, outputs, T') out."""
        return F.conv2d(
            x.unsqueeze(2),
            self.weight.unsqueeze(2),
            self.bias,
            stride=(1, *self.stride),
            padding=(0, *self.padding),
            groups=self.groups,
        ).squeeze(2)


class MaskedConv1d(nn.Module):
    """Convolution over time whose result is zero outside the mask.

    With stride s, output t sits at input s·t and takes its mask.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = TimeConv1d(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias
        )
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) features and (B, 1, T) mask in, both at the output's rate out."""
        mask = mask[..., :: self.stride]
        return self.conv(x) * mask, mask


def own_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which the precision of ``x`` is kept, also where autocast would reduce it."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()  # tensors without memory, on which operations are counted


def zero_biases(module: nn.Module) -> None:
    """Start all biases of convolutions and linear maps at 0 (ActionFormer)."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
