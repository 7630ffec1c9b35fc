"""A matrix as a PNG picture, written with the standard library.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# From dark blue over green to light yellow: brightness rises evenly, also for the colour-blind.
ANCHORS = ((24, 18, 72), (38, 86, 128), (46, 146, 128), (150, 198, 90), (252, 246, 190))
LEVELS = 255  # the last entry of the palette is transparent


def palette() -> NDArray[np.uint8]:
    """(255, 3) colours from low to high."""
    places = np.linspace(0, len(ANCHORS) - 1, LEVELS)
    known, colours = np.arange(len(ANCHORS)), np.array(ANCHORS, np.float64)
    channels = [np.interp(places, known, channel) for channel in colours.T]
    colours_of_levels: NDArray[np.float64] = np.rint(np.stack(channels, axis=1))
    return colours_of_levels.astype(np.uint8)


def heat_png(values: NDArray[np.float32], low: float, high: float) -> bytes:
    """Picture of a matrix, one pixel a cell; NaN is transparent.

    Args:
        values: (H, W), at least one cell.
        low: Value of the darkest colour.
        high: Value of the lightest; beyond both the colour stays.
    """
    share = (values - low) / max(high - low, 1e-12)
    known = ~np.isnan(share)
    pixels = np.full(values.shape, LEVELS, np.uint8)
    pixels[known] = np.rint(np.clip(share[known], 0, 1) * (LEVELS - 1)).astype(np.uint8)
    height, width = len(pixels), len(pixels[0])
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels])  # each row: filter 0, then pixels
    colours = np.vstack([palette(), np.zeros((1, 3), np.uint8)])
    alpha = bytes([255] * LEVELS + [0])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, palette
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", colours.tobytes()),
            _chunk(b"tRNS", alpha),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def data_address(png: bytes) -> str:
    """The picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
