"""Frames through a pipe from the ffmpeg program: slower to start, at home with every format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from extractors.media.blocks import FrameBlock, block_length
from extractors.media.ended import crash_of
from extractors.media.ffmpeg import (
    ffmpeg_environment,
    picture_command,
    silent_fault,
    time_limit,
)
from extractors.media.gaps import Gap, GapFinder, end_before_leap
from extractors.media.info import MediaInfo
from extractors.media.jumps import read_clock
from extractors.media.limits import decoder_memory
from extractors.media.process import StalledError, WatchedProcess
from extractors.windows import first_frame
from pipeline.core.errors import EnvironmentFault, MediaError


class FfmpegFrames:
    """`FrameSource` that reads ffmpeg's raw output.

    Args:
        info: The file; it has a picture stream.
        fps: Samples per second.
        size: Width and height of the frames.
        first: First sample wanted. Earlier ones are ffmpeg's repetitions of the first frame before
            the stream's start, or have been delivered by another reader.
        stall_timeout: Seconds without output before ffmpeg is killed.
        disorder: Whether it is known that frames bear times that are not theirs.
        threads: Decoder threads; 0 lets ffmpeg choose.

    Raises:
        EnvironmentFault: There is no ffmpeg.
        MediaError: While iterating: nothing could be decoded, or ffmpeg hung or crashed.
        DecoderEndedError: While iterating: somebody else ended ffmpeg.
    """

    def __init__(
        self,
        info: MediaInfo,
        *,
        fps: Fraction,
        size: tuple[int, int],
        first: int,
        stall_timeout: float,
        disorder: bool = False,
        threads: int = 0,
    ) -> None:
        assert info.video is not None
        self.end = 0.0
        self._info = info
        self._promised = info.video.end
        self._limit = time_limit(info)
        self._fps = fps
        self._size = size
        self._first = first
        step = read_clock(info).step
        command = picture_command(info, fps=fps, size=size, threads=threads, step=step)
        self._finder = GapFinder(
            start=info.video.start,
            usual=float(1 / info.video.rate),
            promised=info.duration,
            disorder=disorder,
        )
        try:
            self._child = WatchedProcess(
                command,
                stall_timeout=stall_timeout,
                environment=ffmpeg_environment(),
                memory=decoder_memory(info),
                on_line=self._finder.take,
            )
        except OSError as error:
            raise EnvironmentFault(f"ffmpeg does not start: {error}") from error

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without a decoded frame, from the first sample wanted on."""
        first, found = float(self._first / self._fps), self._finder.gaps
        over = end_before_leap(found, self._limit)
        return tuple(
            replace(gap, start=max(gap.start, first))
            for gap in found
            if gap.end > first and gap.start < over
        )

    @property
    def pid(self) -> int:
        """Process id of ffmpeg."""
        return self._child.pid

    def __iter__(self) -> Iterator[FrameBlock]:
        width, height = self._size
        length = block_length(width, height)
        total = 0
        while True:
            frames = np.empty((length, height, width, 3), dtype=np.uint8)
            count = self._fill(frames, total)
            crash = None
            if count < length:
                crash = self._check(total + count)
            else:  # a frame is repeated up to its successor, which is known by then
                self._finder.wait_past(float((total + count - 1) / self._fps))
            over = end_before_leap(self._finder.gaps, self._limit)
            if over < math.inf:
                count = min(count, max(0, first_frame(over, self._fps) - total))
            skip = max(0, self._first - total)
            if count > skip:
                yield FrameBlock(total + skip, frames[skip:count])
            total += count
            if crash is not None:
                raise crash
            if count < length:
                break
        self.end = self._end(total)

    def kill(self) -> None:
        """End the decoder, from any thread."""
        self._child.kill()

    def close(self) -> None:
        """End the decoder and free it, from the thread that iterates."""
        self._child.close()

    def _check(self, total: int) -> MediaError | None:
        """The error to be raised once all frames have been handed on, or None."""
        status = self._child.wait()
        self._finder.close()
        second = float(total / self._fps)
        crash = crash_of(self._child, status, self._info.path, noun="picture", second=second)
        if total == 0 and status != 0:
            reason = self._child.last_words
            raise MediaError(self._info.path, f"no picture can be decoded: ffmpeg: {reason}")
        if total and not self._finder.has_heard and crash is None:
            raise silent_fault()
        return crash

    def _fill(self, frames: np.ndarray, total: int) -> int:
        """Number of whole frames read."""
        try:
            done = self._child.fill(frames.data.cast("B"))
        except StalledError as error:
            second = float(total / self._fps)
            raise MediaError(
                self._info.path,
                f"ffmpeg hung while decoding the picture after second {second:.2f}",
                hint="convert the file with another program",
            ) from error
        return done // frames[0].nbytes

    def _end(self, total: int) -> float:
        """Second at which the last frame is over.

        Samples only say that the picture lasts past sample ``total - 1`` and not past ``total``;
        where the promised end lies between the two, it was kept.
        """
        low, high = float((total - 1) / self._fps), float(total / self._fps)
        if self._promised is not None and low < self._promised < high:
            return self._promised
        return high if total else 0.0
