"""Noise in place of a file's picture, sound and features: for measuring one part alone."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from extractors.features import ARRAY_TYPES, Rows
from extractors.media.audio import BLOCK_SECONDS
from extractors.media.blocks import FrameBlock, block_length
from extractors.media.gaps import Gap
from extractors.media.info import MediaInfo
from extractors.shapes import array_shapes
from extractors.spec import BackboneSpec
from extractors.stream import CHUNK_STEPS, Sources
from extractors.windows import first_frame

SEED = 0


class _Open:
    """What both made-up streams share."""

    reader = "noise"
    fallback_reason = ""
    end = 0.0
    gaps: tuple[Gap, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class _NoisePicture(_Open):
    """As many frames as a file has on the grid; every block is the same noise."""

    def __init__(self, start: float, end: float, *, fps: Fraction, size: tuple[int, int]) -> None:
        self.end = end
        self._first, self._stop = first_frame(start, fps), first_frame(end, fps)
        length = block_length(*size)
        shape = (length, size[1], size[0], 3)
        self._block = np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8)

    def __iter__(self) -> Iterator[FrameBlock]:
        for first in range(self._first, self._stop, len(self._block)):
            yield FrameBlock(first, self._block[: self._stop - first])


class _NoiseSound(_Open):
    """As many samples as a file has up to its end, faint."""

    def __init__(self, end: float, *, sample_rate: int) -> None:
        self.end = end
        self._count = round(end * sample_rate)
        noise = np.random.default_rng(SEED).normal(0, 0.05, BLOCK_SECONDS * sample_rate)
        self._block: NDArray[np.float32] = noise.astype(np.float32)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for first in range(0, self._count, len(self._block)):
            yield self._block[: self._count - first]


def noise_sources(info: MediaInfo) -> Sources:
    """Streams of the file's length that cost nothing to decode.

    Args:
        info: The file; it says how long it is.
    """
    assert info.duration is not None
    length = info.duration

    def video(info: MediaInfo, *, fps: Fraction, size: tuple[int, int], **_: Any) -> _NoisePicture:
        assert info.video is not None
        return _NoisePicture(info.video.start, length, fps=fps, size=size)

    def audio(info: MediaInfo, *, sample_rate: int, **_: Any) -> _NoiseSound:
        return _NoiseSound(length, sample_rate=sample_rate)

    return Sources(video, audio)


def noise_rows(spec: BackboneSpec, steps: int) -> list[Rows]:
    """Feature rows as a stream hands them on, in chunks; one chunk is used again and again."""
    rng = np.random.default_rng(SEED)
    chunk = {
        name: (rng.random((CHUNK_STEPS, *shape)) + 0.5).astype(ARRAY_TYPES[name])
        for name, shape in array_shapes(spec).items()
    }
    sizes = [CHUNK_STEPS] * (steps // CHUNK_STEPS) + [steps % CHUNK_STEPS]
    return [{name: array[:size] for name, array in chunk.items()} for size in sizes if size]
