"""What picture readers yield, and the rule by which frames fall on the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from extractors.media.gaps import Gap

BLOCK_BYTES = 4 << 20
BLOCK_FRAMES = 64


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """Consecutive samples of the picture grid.

    Attributes:
        first: Number of the first sample; sample j is the frame on screen at second j / fps.
        frames: (n, height, width, 3) uint8, RGB.
    """

    first: int
    frames: NDArray[np.uint8]


class FrameSource(Protocol):
    """One way of decoding a picture stream onto the grid.

    Iterating yields consecutive `FrameBlock`s; afterwards ``end`` is the second up to which
    picture was decoded.
    """

    end: float

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without a decoded frame: all that overlap what was yielded, perhaps more."""
        ...

    def __iter__(self) -> Iterator[FrameBlock]: ...

    def kill(self) -> None:
        """End the decoder, from any thread."""

    def close(self) -> None:
        """End the decoder and free it, from the thread that iterates."""


class OpenPicture(Protocol):
    """A picture stream as `extractors.media.video.VideoReader` offers it."""

    @property
    def reader(self) -> str:
        """Name of the reader."""
        ...

    @property
    def fallback_reason(self) -> str:
        """Why another reader was not used."""
        ...

    @property
    def end(self) -> float:
        """After iteration, the second up to which picture was decoded."""
        ...

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without a decoded frame: all that overlap what was yielded, perhaps more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __iter__(self) -> Iterator[FrameBlock]: ...


class OpenSound(Protocol):
    """A sound stream as `extractors.media.audio.AudioReader` offers it."""

    @property
    def reader(self) -> str:
        """Name of the reader."""
        ...

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without decoded sound: all that overlap what was yielded, perhaps more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


def block_length(width: int, height: int) -> int:
    """Number of frames of a block: at most 64, and 4 MB unless a single frame is larger."""
    return max(1, min(BLOCK_FRAMES, BLOCK_BYTES // (width * height * 3)))


def first_samples(ticks: Sequence[int], time_base: Fraction, fps: Fraction) -> list[int]:
    """First grid sample at which each frame is on screen, ceil(tick · time_base · fps).

    Exact in integers, so that a frame that starts on a sample is on that sample; this is what
    ffmpeg's ``fps`` filter does with ``round=up``. Frame i is on samples
    [result[i], result[i + 1]): the last frame whose timestamp is not after the sample.
    """
    scale = time_base * fps
    up, down = scale.numerator, scale.denominator
    return [-(-tick * up // down) for tick in ticks]
