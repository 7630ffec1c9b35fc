"""Scale pictures as Pillow does, bit for bit: bilinear or bicubic with antialiasing.

The public extractor of I3D features scales with Pillow, and so does ONE-PEACE's public interface
for pictures. An output pixel is a weighted mean of the input pixels under a filter that is as wide
as the scale: a triangle, or Keys' cubic with a = -0.5. All is done in whole numbers: weights are
rounded to multiples of 2^-22; columns come first and are rounded to bytes, then rows. (Pillow 13
takes the rows first where they shrink more, which a change of aspect can bring about: other bytes
by rounding. All pictures here are scaled in the order that the older versions have.)

Source: the published description of Pillow's convolution-based resampling (constants only).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22
CUBIC = -0.5  # Keys' a

Filter = Literal["bilinear", "bicubic"]
Weights = tuple[NDArray[np.intp], NDArray[np.int32]]  # (out, taps): which inputs, their weights


def resize(
    frames: NDArray[np.uint8], width: int, height: int, *, filter: Filter = "bilinear"
) -> NDArray[np.uint8]:
    """Scale whole pictures to a size, whatever their aspect.

    Args:
        frames: (N, H, W, 3).
        width: Wanted.
        height: Wanted.
        filter: ``bilinear`` or ``bicubic``.

    Returns:
        (N, height, width, 3); the same pictures where they have that size.
    """
    whole = slice(None)
    scaled = frames
    if frames.shape[2] != width:
        scaled = _along(scaled, 2, width, whole, filter=filter)
    if frames.shape[1] != height:
        scaled = _along(scaled, 1, height, whole, filter=filter)
    return scaled


def resize_and_crop(
    frames: NDArray[np.uint8], *, shorter_side: int, crop: int | None = None
) -> NDArray[np.uint8]:
    """Scale the shorter side to a length, keeping the aspect, and cut out the middle square.

    Args:
        frames: (N, H, W, 3).
        shorter_side: Length of the shorter side; pictures that have it stay as they are.
        crop: Height and width of the square; None to cut nothing off.

    Returns:
        (N, crop, crop, 3), or (N, H', W', 3) without a crop.

    Raises:
        ValueError: ``crop`` is larger than ``shorter_side``.
    """
    height, width = frames.shape[1:3]
    new_width, new_height = scaled_size(width, height, shorter_side)
    if crop is not None and crop > shorter_side:
        raise ValueError(f"crop={crop} is larger than shorter_side={shorter_side}")
    columns = _middle(new_width, crop)
    rows = _middle(new_height, crop)
    if (new_width, new_height) == (width, height):
        return np.ascontiguousarray(frames[:, rows, columns])
    # The axis that a crop leaves fewer pixels of could come first, but Pillow's order rounds.
    scaled = frames[:, :, columns] if new_width == width else _along(frames, 2, new_width, columns)
    return scaled[:, rows] if new_height == height else _along(scaled, 1, new_height, rows)


def scaled_size(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    """(width, height) of a picture scaled to a shorter side; the other one is rounded down."""
    if min(width, height) == shorter_side:
        return width, height
    if width < height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def _middle(length: int, crop: int | None) -> slice:
    first = 0 if crop is None else (length - crop) // 2
    return slice(first, first + (length if crop is None else crop))


def _along(
    frames: NDArray[np.uint8],
    axis: int,
    length: int,
    kept: slice,
    *,
    filter: Filter = "bilinear",
) -> NDArray[np.uint8]:
    """Scale one axis to ``length`` and keep a part of it."""
    places, weights = _weights(frames.shape[axis], length, filter)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    total: NDArray[np.int32] | None = None
    for place, weight in zip(places[kept].T, weights[kept].T, strict=True):
        term = frames.take(place, axis=axis).astype(np.int32)
        term *= weight.reshape(shape)
        total = term + (1 << (PRECISION_BITS - 1)) if total is None else np.add(total, term, total)
    assert total is not None
    return np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


# Half the width of each filter on pictures that are not made smaller, and its shape.
_SHAPES: Mapping[str, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = (
    MappingProxyType({"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic)})
)


@lru_cache(maxsize=16)
def _weights(length: int, new_length: int, filter: Filter) -> Weights:
    """Inputs and weights of each output of one axis; unused taps weigh nothing."""
    radius, shape = _SHAPES[filter]
    scale = length / new_length
    wider = max(scale, 1.0)
    support = radius * wider
    centres = (np.arange(new_length) + 0.5) * scale
    first = np.maximum(0, (centres - support + 0.5).astype(np.intp))
    stop = np.minimum(length, (centres + support + 0.5).astype(np.intp))
    places = first[:, None] + np.arange(2 * math.ceil(support) + 1)
    distance = (places - centres[:, None] + 0.5) * (1.0 / wider)
    weights = np.where(places < stop[:, None], shape(distance), 0.0)
    weights *= 1.0 / weights.sum(axis=1, keepdims=True)
    # Rounded half away from zero.
    whole = np.trunc(weights * (1 << PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    used = (weights != 0).any(axis=0)
    return np.minimum(places, length - 1)[:, used], whole[:, used]
