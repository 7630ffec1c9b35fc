"""Scale pictures as Pillow does, bit for bit: bilinear with antialiasing, in whole numbers.

The public extractor of I3D features scales with Pillow. An output pixel is a weighted mean of the
input pixels under a triangle that is as wide as the scale; weights are rounded to multiples of
2^-22; columns come first and are rounded to bytes, then rows.

Source: the published description of Pillow's convolution-based resampling (constants only).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22

Weights = tuple[NDArray[np.intp], NDArray[np.int32]]  # (out, taps): which inputs, their weights


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


def _along(frames: NDArray[np.uint8], axis: int, length: int, kept: slice) -> NDArray[np.uint8]:
    """Scale one axis to ``length`` and keep a part of it."""
    places, weights = _weights(frames.shape[axis], length)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    total: NDArray[np.int32] | None = None
    for place, weight in zip(places[kept].T, weights[kept].T, strict=True):
        term = frames.take(place, axis=axis).astype(np.int32)
        term *= weight.reshape(shape)
        total = term + (1 << (PRECISION_BITS - 1)) if total is None else np.add(total, term, total)
    assert total is not None
    return np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _weights(length: int, new_length: int) -> Weights:
    """Inputs and weights of each output of one axis; unused taps weigh nothing."""
    scale = length / new_length
    support = max(scale, 1.0)
    centres = (np.arange(new_length) + 0.5) * scale
    first = np.maximum(0, (centres - support + 0.5).astype(np.intp))
    stop = np.minimum(length, (centres + support + 0.5).astype(np.intp))
    places = first[:, None] + np.arange(2 * math.ceil(support) + 1)
    distance = (places - centres[:, None] + 0.5) * (1.0 / support)
    weights = np.where(places < stop[:, None], np.maximum(0.0, 1.0 - np.abs(distance)), 0.0)
    weights *= 1.0 / weights.sum(axis=1, keepdims=True)
    whole = np.floor(0.5 + weights * (1 << PRECISION_BITS)).astype(np.int32)
    used = (weights > 0).any(axis=0)
    return np.minimum(places, length - 1)[:, used], whole[:, used]
