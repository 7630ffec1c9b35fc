"""The one place that turns seconds into windows and back.

A grid is the row of feature positions ("steps") of a video. Step k covers the window
[k * stride / fps, (k * stride + window) / fps) seconds of the container clock, for picture and
sound alike. Rates are fractions and step borders exact; only the results are floats.

Source: the 16 fps, 16-frame, stride-4 grid of UniAV's ONE-PEACE features for UnAV-100; the grid
formulas (seconds - centre of the first window, in strides) are those of ActionFormer and UnAV.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLOCK_RESOLUTION_S = 1e-6  # containers promise no more than microseconds; absorbs float noise


def first_frame(seconds: float, fps: Fraction) -> int:
    """First sample j of the picture grid j / ``fps`` taken at or after ``seconds``, 0 at least."""
    return max(0, math.ceil(float(fps) * (seconds - CLOCK_RESOLUTION_S)))


def even_frames(window: int, count: int) -> NDArray[np.int64]:
    """Frames of a window for a net that takes fewer: the middles of ``count`` equal parts.

    floor((i + 1/2) window / count), the uniform sampling of clips that is usual for video nets. Of
    24 frames 16 are 0 2 3 5 6 8 9 11 12 14 15 17 18 20 21 23: symmetric, and what even spacing from
    the first to the last rounds to, too. All frames where there are as many.

    Args:
        window: Frames of the window.
        count: Frames that the net takes.

    Returns:
        (count,) rising places in the window.

    Raises:
        ValueError: There are fewer frames than the net takes.
    """
    if not 1 <= count <= window:
        raise ValueError(f"a net that takes {count} frames cannot have them of {window}")
    return (2 * np.arange(count, dtype=np.int64) + 1) * window // (2 * count)


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Where each feature step lies in time.

    Attributes:
        fps: Picture samples per second.
        window: Picture samples that one step covers.
        stride: Picture samples from one step to the next.
        sample_rate: Sound samples per second; a step and a stride are whole numbers of them.
        lookahead: Picture samples that must follow a window for its step to be counted. The
            extractor behind UnAV-100's features wants one, for the flow out of the last frame.

    Raises:
        ValueError: A value is not positive (``lookahead``: negative), or a window is not a whole
            number of sound samples.
    """

    fps: Fraction = Fraction(16)
    window: int = 16
    stride: int = 4
    sample_rate: int = 16_000
    lookahead: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", Fraction(self.fps))
        if self.fps <= 0 or self.window < 1 or self.stride < 1 or self.sample_rate < 1:
            raise ValueError(f"fps, window, stride and sample_rate must be positive: {self}")
        if self.lookahead < 0:
            raise ValueError(f"lookahead={self.lookahead} is negative")
        for name, frames in (("window", self.window), ("stride", self.stride)):
            if (frames * self.sample_rate / self.fps).denominator != 1:
                raise ValueError(
                    f"{name}={frames} frames at {self.fps} fps is not a whole number of samples "
                    f"at {self.sample_rate} Hz"
                )

    @property
    def step_seconds(self) -> float:
        """Seconds from one step to the next."""
        return float(self.stride / self.fps)

    @property
    def window_seconds(self) -> float:
        """Seconds that one step covers."""
        return float(self.window / self.fps)

    @property
    def window_samples(self) -> int:
        """Sound samples that one step covers."""
        return int(self.window * self.sample_rate / self.fps)

    @property
    def stride_samples(self) -> int:
        """Sound samples from one step to the next."""
        return int(self.stride * self.sample_rate / self.fps)

    def frame_count(self, duration: float) -> int:
        """Number of picture samples in ``duration`` seconds: floor(fps * duration)."""
        return max(0, math.floor(float(self.fps) * (duration + CLOCK_RESOLUTION_S)))

    def steps(self, duration: float) -> int:
        """Number of steps of a video of ``duration`` seconds.

        `whole_steps`, and 1 for anything shorter than a window, so that no video is without a step
        (the missing rest of that window is padding).
        """
        return max(1, self.whole_steps(duration))

    def whole_steps(self, seconds: float) -> int:
        """Number of steps whose windows, and what must follow them, end within ``seconds``.

        floor((floor(fps * seconds) - window - lookahead) / stride) + 1, and 0 below one window.
        """
        needed = self.window + self.lookahead
        return max(0, (self.frame_count(seconds) - needed) // self.stride + 1)

    def span(self, step: int) -> tuple[float, float]:
        """First and last second that ``step`` covers."""
        first = step * self.stride
        return float(first / self.fps), float((first + self.window) / self.fps)

    def centres(self, steps: int) -> NDArray[np.float64]:
        """Centre of each of the first ``steps`` windows, (steps,) seconds."""
        return self.to_seconds(np.arange(steps))

    def frame_second(self, frame: int) -> float:
        """Second at which picture sample ``frame`` is taken."""
        return float(frame / self.fps)

    def first_frame(self, seconds: float) -> int:
        """First picture sample taken at or after ``seconds``."""
        return first_frame(seconds, self.fps)

    def to_grid(self, seconds: ArrayLike) -> NDArray[np.float64]:
        """Position on the grid, in steps, whose window is centred on ``seconds``.

        (seconds * fps - window / 2) / stride; may be negative or lie between two steps.
        """
        values = np.asarray(seconds, dtype=np.float64)
        return (values * float(self.fps) - self.window / 2) / self.stride

    def to_seconds(self, position: ArrayLike) -> NDArray[np.float64]:
        """Inverse of `to_grid`: centre second of a (fractional) grid position."""
        values = np.asarray(position, dtype=np.float64)
        return (values * self.stride + self.window / 2) / float(self.fps)

    def mask(self, steps: int, start: float, end: float, duration: float) -> NDArray[np.bool_]:
        """Which steps hold at least half a window of a stream.

        Args:
            steps: Number of steps, T.
            start: First second of the stream.
            end: Second at which the stream is over.
            duration: End of the media; what a window reaches past it does not count.

        Returns:
            (T,) True where the stream covers at least half of the window's part inside the media.
        """
        first = np.arange(steps) * float(self.stride / self.fps)
        last = np.minimum(first + self.window_seconds, max(duration, CLOCK_RESOLUTION_S))
        covered = np.minimum(last, end) - np.maximum(first, start)
        mask: NDArray[np.bool_] = (covered > 0) & (
            covered >= 0.5 * (last - first) - CLOCK_RESOLUTION_S
        )
        return mask

    def to_json(self) -> dict[str, Any]:
        """The grid as plain values; the rate as a fraction, so that it returns exactly.

        ``lookahead`` came later: it is there only where it is not 0, so that digests stay.
        """
        values = {
            "fps": str(self.fps),
            "window": self.window,
            "stride": self.stride,
            "sample_rate": self.sample_rate,
        }
        return {**values, "lookahead": self.lookahead} if self.lookahead else values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WindowGrid:
        """Inverse of `to_json`."""
        return cls(
            fps=Fraction(value["fps"]),
            window=int(value["window"]),
            stride=int(value["stride"]),
            sample_rate=int(value["sample_rate"]),
            lookahead=int(value.get("lookahead", 0)),
        )
