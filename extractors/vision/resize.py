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
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22
HALF = 1 << (PRECISION_BITS - 1)
CUBIC = -0.5  # Keys' a

Filter = Literal["bilinear", "bicubic"]


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
    if frames.shape[1:3] == (height, width):
        return frames
    return _scale(frames, (width, height), None, filter=filter)


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
    if crop is not None and crop > shorter_side:
        raise ValueError(f"crop={crop} is larger than shorter_side={shorter_side}")
    height, width = frames.shape[1:3]
    size = scaled_size(width, height, shorter_side)
    if size != (width, height):
        return _scale(frames, size, crop, filter="bilinear")
    return np.ascontiguousarray(frames[:, _middle(height, crop), _middle(width, crop)])


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


@dataclass(frozen=True, slots=True)
class _Taps:
    """Which inputs an axis's outputs see, and their weights.

    Attributes:
        seen: Inputs that any of the outputs sees.
        places: (taps, out) numbers among those.
        weights: (taps, out) in multiples of 2^-22.
    """

    seen: slice
    places: NDArray[np.intp]
    weights: NDArray[np.int32]

    def of_bytes(self) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Places and weights along a line of pixels of three bytes."""
        weights = np.repeat(self.weights, 3, axis=1)
        places = self.places[..., None] * 3 + np.arange(3)
        return places.reshape(weights.shape), weights


def _scale(
    frames: NDArray[np.uint8], size: tuple[int, int], crop: int | None, *, filter: Filter
) -> NDArray[np.uint8]:
    """Scale pictures to a size (width, height), and keep the middle square of that.

    Columns come first even where a crop leaves fewer pixels of the other axis: that is the order
    in which Pillow rounds. Pictures go one by one, as what is computed of one stays in the cache,
    and as lines of bytes: along three colours alone, NumPy is slow.
    """
    across = _taps(frames.shape[2], size[0], crop, filter)
    down = _taps(frames.shape[1], size[1], crop, filter)
    pixels, weights = across.of_bytes()
    width, height = (length if crop is None else crop for length in size)
    scaled = np.empty((len(frames), height, width, 3), np.uint8)
    for picture, target in zip(frames, scaled, strict=True):
        part = picture[down.seen, across.seen]
        lines = _weigh(part.reshape(len(part), -1), pixels, weights, axis=1)
        lines = _weigh(lines, down.places, down.weights[..., None], axis=0)
        target[:] = lines.reshape(target.shape)
    return scaled


def _weigh(
    lines: NDArray[np.uint8], places: NDArray[np.intp], weights: NDArray[np.int32], *, axis: int
) -> NDArray[np.uint8]:
    """Weighted means along one axis of (lines, bytes), rounded.

    Args:
        lines: Lines of a picture.
        places: (taps, out) which lines or bytes.
        weights: (taps, out) for bytes, (taps, out, 1) for lines.
        axis: 0 for lines, 1 for bytes.
    """
    if len(weights) == 1:  # of one: the axis keeps its length, or has but one to give
        return lines.take(places[0], axis=axis)
    total: NDArray[np.int32] | None = None
    for place, weight in zip(places, weights, strict=True):
        term = lines.take(place, axis=axis).astype(np.int32)
        term *= weight
        total = np.add(term, HALF, term) if total is None else np.add(total, term, total)
    assert total is not None
    total >>= PRECISION_BITS
    return np.clip(total, 0, 255, total).astype(np.uint8)


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
def _taps(length: int, new_length: int, crop: int | None, filter: Filter) -> _Taps:
    """Inputs and weights of the middle outputs of one axis; unused taps weigh nothing."""
    kept = _middle(new_length, crop)
    if length == new_length:
        one = np.arange(length)[None, kept] - kept.start
        return _Taps(kept, one, np.full(one.shape, 1 << PRECISION_BITS, np.int32))
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
    places, whole = np.minimum(places, length - 1)[kept, used], whole[kept, used]
    seen = slice(int(places.min()), int(places.max()) + 1)
    return _Taps(seen, places.T - seen.start, np.ascontiguousarray(whole.T))
