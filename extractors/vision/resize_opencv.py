"""Scale pictures as OpenCV's ``INTER_LINEAR`` does, byte for byte: bilinear, not antialiased.

The public pipeline of ONE-PEACE's video branch scales so. Unlike Pillow's filters this one is never
wider than two pixels: whatever lies between the two rows and columns next to the centre of an
output pixel is not seen. All is done in whole numbers: weights are rounded to multiples of 2^-11,
columns are mixed exactly, and of each of the two rows what is finer than a quarter of a level is
cut off before their sum is rounded.

The bytes are those of OpenCV 4.5.5 and 5.0.0 on x86-64; builds for other processors were not
compared.

Source: the published behaviour of OpenCV (constants and the order of rounding), and of mmcv and
mmaction2 for sizes and the crop.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WEIGHT_BITS = 11
_LOST = 4  # bits of a mixed row that are dropped, so that its product with a weight fits
_QUARTERS = 2 * WEIGHT_BITS - _LOST - 2  # what then leaves quarters of a level
BAND = 64  # rows at a time: what lies between stays in the processor's cache


class _Taps(NamedTuple):
    """For each output of one axis, the two inputs that it lies between, and their weights."""

    before: NDArray[np.intp]
    after: NDArray[np.intp]
    weights: NDArray[np.int32]  # (2, out)


def resize_linear(
    frames: NDArray[np.uint8],
    width: int,
    height: int,
    *,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> NDArray[np.uint8]:
    """Scale whole pictures to a size, whatever their aspect, and keep a part of them.

    Args:
        frames: (N, H, W, 3).
        width: Wanted.
        height: Wanted.
        rows: Of the scaled picture, which are kept; no others are computed.
        columns: Like ``rows``.

    Returns:
        (N, height, width, 3), or what is kept of it. Pictures of that size are only cut.
    """
    if frames.shape[1:3] == (height, width):
        return np.ascontiguousarray(frames[:, rows, columns])
    vertical = _kept(_taps(frames.shape[1], height), rows)
    horizontal = _kept(_taps(frames.shape[2], width), columns)
    shape = (len(frames), len(vertical.before), len(horizontal.before), 3)
    scaled = np.empty(shape, np.uint8)
    for frame, into in zip(frames, scaled, strict=True):
        for first in range(0, len(into), BAND):
            band = slice(first, first + BAND)
            _scale(frame, _kept(vertical, band), horizontal, into[band])
    return scaled


def resize_linear_and_crop(frames: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    """Scale the shorter side to a length, keeping the aspect, and cut out the middle square.

    Args:
        frames: (N, H, W, 3).
        side: Height and width of the square, and length of the scaled picture's shorter side.

    Returns:
        (N, side, side, 3). Of an odd number of rows or columns, one more is cut off at the end.
    """
    width, height = rounded_size(frames.shape[2], frames.shape[1], side)
    return resize_linear(
        frames, width, height, rows=_middle(height, side), columns=_middle(width, side)
    )


def rounded_size(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    """(width, height) of a picture scaled to a shorter side; the other one is rounded."""
    scale = shorter_side / min(width, height)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _middle(length: int, kept: int) -> slice:
    first = (length - kept) // 2
    return slice(first, first + kept)


def _scale(
    frame: NDArray[np.uint8], vertical: _Taps, horizontal: _Taps, into: NDArray[np.uint8]
) -> None:
    """Some rows of a scaled picture (H, W, 3): first columns of what they need, then rows."""
    count = len(vertical.before)
    needed = frame.take(np.concatenate([vertical.before, vertical.after]), axis=0)
    left, right = horizontal.weights[:, :, None]
    mixed = needed.take(horizontal.before, axis=1).astype(np.int32)
    mixed *= left
    other = needed.take(horizontal.after, axis=1).astype(np.int32)
    other *= right
    mixed += other
    mixed >>= _LOST
    upper, lower = mixed[:count], mixed[count:]
    for part, weight in zip((upper, lower), vertical.weights, strict=True):
        part *= weight[:, None, None]
        part >>= _QUARTERS
    upper += lower
    upper += 2
    upper >>= 2
    into[...] = upper


@lru_cache(maxsize=16)
def _taps(length: int, new_length: int) -> _Taps:
    """Neighbours of each output's centre; beyond the outermost inputs both are the same one."""
    scale = 1.0 / (new_length / length)
    centres = ((np.arange(new_length) + 0.5) * scale - 0.5).astype(np.float32)
    below = np.floor(centres)
    share = centres - below
    weights = np.rint(np.stack([np.float32(1) - share, share]) * np.float32(1 << WEIGHT_BITS))
    first = below.astype(np.intp)
    before, after = (np.clip(place, 0, length - 1) for place in (first, first + 1))
    return _Taps(before, after, weights.astype(np.int32))


def _kept(taps: _Taps, part: slice) -> _Taps:
    return _Taps(taps.before[part], taps.after[part], taps.weights[:, part])
