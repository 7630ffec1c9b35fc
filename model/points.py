"""Points: the steps of every level, with the range of distances that each level answers for.

Source: ActionFormer and UnAV; no half-stride offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LAST_RANGE_END = 10_000.0


def regression_ranges(levels: int) -> tuple[tuple[float, float], ...]:
    """Distances that each level answers for: 0-4, 4-8, 8-16, ... and the last to 10,000 steps.

    With 6 levels those of UnAV, UniAV and LoCo.
    """
    ends = [4.0 * 2**level for level in range(levels - 1)]
    return tuple(zip([0.0, *ends], [*ends, LAST_RANGE_END], strict=True))


@dataclass(frozen=True, slots=True)
class Points:
    """All levels joined, finest first; P points, in steps of the finest level.

    Attributes:
        times: (P,) position.
        low: (P,) smallest distance to the farther end of an event that the point answers for.
        high: (P,) largest such distance.
        strides: (P,) steps of the finest level from one point of the level to the next.
    """

    times: Tensor
    low: Tensor
    high: Tensor
    strides: Tensor


def make_points(
    lengths: Sequence[int],
    *,
    ranges: Sequence[tuple[float, float]] | None = None,
    scale: int = 2,
    device: torch.device | None = None,
) -> Points:
    """Points of a pyramid.

    Args:
        lengths: Steps T_l of each level.
        ranges: (low, high) of each level; `regression_ranges` when omitted.
        scale: Ratio of neighbouring levels.
        device: Where the tensors live.
    """
    ranges = regression_ranges(len(lengths)) if ranges is None else ranges
    if len(lengths) != len(ranges):
        raise ValueError(f"{len(lengths)} levels but {len(ranges)} regression ranges")
    times, low, high, strides = [], [], [], []
    for level, length in enumerate(lengths):
        stride = float(scale**level)
        times.append(torch.arange(length, device=device, dtype=torch.float32) * stride)
        low.append(torch.full((length,), float(ranges[level][0]), device=device))
        high.append(torch.full((length,), float(ranges[level][1]), device=device))
        strides.append(torch.full((length,), stride, device=device))
    return Points(torch.cat(times), torch.cat(low), torch.cat(high), torch.cat(strides))
