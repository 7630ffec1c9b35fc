"""The sound of a media file on the container clock, through a pipe from ffmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from extractors.media.ended import crash_of
from extractors.media.ffmpeg import (
    ffmpeg_environment,
    silent_fault,
    sound_command,
    time_limit,
)
from extractors.media.gaps import Gap, GapFinder, end_before_leap
from extractors.media.info import MediaInfo
from extractors.media.jumps import read_clock
from extractors.media.limits import decoder_memory
from extractors.media.process import StalledError, WatchedProcess
from pipeline.core.errors import EnvironmentFault, MediaError

BLOCK_SECONDS = 4
STALL_S = 120.0
COMPENSATION_S = 0.02  # sound may run before its timestamps by less than this (aresample)


def open_audio(
    info: MediaInfo,
    *,
    sample_rate: int = 16_000,
    stall_timeout: float = STALL_S,
    threads: int = 0,
) -> AudioReader:
    """Open the sound of a file.

    Args:
        info: What `probe` said of the file.
        sample_rate: Samples per second wanted.
        stall_timeout: Seconds ffmpeg may give nothing before the file fails.
        threads: Decoder threads; 0 lets ffmpeg choose.

    Raises:
        MediaError: The file has no sound.
        EnvironmentFault: There is no ffmpeg.
    """
    if info.audio is None:
        raise MediaError(info.path, "has no sound stream")
    step = read_clock(info).step
    command = sound_command(info, sample_rate=sample_rate, threads=threads, step=step)
    return AudioReader(info, command, sample_rate=sample_rate, stall_timeout=stall_timeout)


class AudioReader:
    """Mono samples of one file, sample n being second n / sample_rate of the container clock.

    A context manager to be iterated once: float32 (n,) blocks of at most 4 s, consecutive from
    sample 0. Sound that starts late is preceded by silence, gaps are filled with it. The pipe is
    the look-ahead; memory is bounded whatever the length of the file.

    Attributes:
        reader: Name of the reader, ``ffmpeg``.
        end: After iteration, the second up to which sound was decoded.
    """

    reader = "ffmpeg"

    def __init__(
        self, info: MediaInfo, command: list[str], *, sample_rate: int, stall_timeout: float
    ) -> None:
        self.end = 0.0
        self._info = info
        self._rate = sample_rate
        self._limit = time_limit(info)
        start = 0.0 if info.audio is None else info.audio.start
        self._finder = GapFinder(start=start, usual=None, promised=info.duration)
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

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without decoded sound, as far as blocks have been taken or beyond."""
        found = self._finder.gaps
        over = end_before_leap(found, self._limit)
        return tuple(gap for gap in found if gap.start < over)

    @property
    def pid(self) -> int:
        """Process id of ffmpeg."""
        return self._child.pid

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        total = 0
        length = BLOCK_SECONDS * self._rate
        try:
            while True:
                samples = np.empty(length, dtype="<f4")
                count = self._fill(samples, total)
                crash = None
                if count < length:
                    crash = self._check(total + count)
                else:
                    self._finder.wait_past((total + count) / self._rate - COMPENSATION_S)
                over = end_before_leap(self._finder.gaps, self._limit)
                count = int(min(count, max(0.0, np.ceil(over * self._rate) - total)))
                total += count
                if count:
                    yield samples[:count]
                if crash is not None:
                    raise crash
                if count < length:
                    break
            self.end = total / self._rate
        finally:
            self.close()

    def close(self) -> None:
        """End ffmpeg. May be called again."""
        self._child.close()

    def _check(self, total: int) -> MediaError | None:
        """The error to be raised once all samples have been handed on, or None."""
        status = self._child.wait()
        self._finder.close()
        second = total / self._rate
        crash = crash_of(self._child, status, self._info.path, noun="sound", second=second)
        if total == 0 and status != 0:
            reason = self._child.last_words
            raise MediaError(self._info.path, f"no sound can be decoded: ffmpeg: {reason}")
        if total and not self._finder.has_heard and crash is None:
            raise silent_fault()
        return crash

    def _fill(self, samples: NDArray[np.float32], total: int) -> int:
        try:
            done = self._child.fill(samples.data.cast("B"))
        except StalledError as error:
            raise MediaError(
                self._info.path,
                f"ffmpeg hung while decoding the sound after second {total / self._rate:.2f}",
                hint="convert the file with another program",
            ) from error
        return done // samples.itemsize
