"""The picture of a media file on the grid: one contract, two readers behind it.

decord runs in a disposable child process and is asked only where it proved right; ffmpeg reads
everything else and takes over at the sample where decord failed. Both give the same frames at the
same seconds.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Literal

from extractors.interruption import POLL_S, check_interruption, interruption
from extractors.media.blocks import FrameBlock, FrameSource
from extractors.media.gaps import Gap
from extractors.media.info import MediaInfo
from extractors.media.jumps import read_clock
from extractors.media.video_decord import (
    DecordFault,
    DecordFrames,
    DisorderFault,
    decord_objection,
)
from extractors.media.video_ffmpeg import FfmpegFrames
from extractors.windows import first_frame
from pipeline.core.errors import MediaError, UsageError

__all__ = ["FrameBlock", "ReaderChoice", "VideoReader", "open_video"]

ReaderChoice = Literal["auto", "decord", "ffmpeg"]
QUEUE_BLOCKS = 3  # decoding runs ahead of the model by so many blocks of at most 4 MB
DECORD_STALL_S = 30.0
FFMPEG_STALL_S = 120.0


def open_video(
    info: MediaInfo,
    *,
    fps: Fraction,
    size: tuple[int, int],
    reader: ReaderChoice = "auto",
    stall_timeout: float | None = None,
    threads: int = 0,
) -> VideoReader:
    """Open the picture of a file.

    Args:
        info: What `probe` said of the file.
        fps: Samples per second of the grid.
        size: Width and height of the frames, in pixels; the picture is stretched to it.
        reader: ``auto`` takes decord where it is trusted and ffmpeg otherwise and after any fault;
            a name takes that reader alone.
        stall_timeout: Seconds a decoder may give nothing; None takes 30 for decord (then ffmpeg
            takes over) and 120 for ffmpeg (then the file fails).
        threads: Decoder threads of ffmpeg; 0 lets it choose.

    Raises:
        MediaError: The file has no picture.
        UsageError: The reader is unknown, or the size or rate not positive.
    """
    if info.video is None:
        raise MediaError(info.path, "has no picture stream")
    if reader not in ("auto", "decord", "ffmpeg"):
        raise UsageError(f"unknown video reader {reader!r}", hint="use auto, decord or ffmpeg")
    if min(size) < 1 or fps <= 0:
        raise UsageError(f"frames of {size[0]}x{size[1]} at {fps} per second cannot be read")
    read_clock(info)  # remembered; in the thread that decodes, nobody could end it
    return VideoReader(
        info,
        fps=Fraction(fps),
        size=size,
        reader=reader,
        stall_timeout=stall_timeout,
        threads=threads,
    )


class VideoReader:
    """Frames of one file in the order of the grid, decoded ahead in a thread.

    A context manager to be iterated once; leaving it ends the decoder at once. Memory is bounded
    whatever the length of the file.

    Attributes:
        reader: Name of the reader in use: ``decord``, ``ffmpeg``, or ``decord+ffmpeg`` where the
            second took over midway.
        fallback_reason: Why decord was not used or not to the end; "" where it was, or where the
            caller asked for ffmpeg.
        first: Sample that comes first: the first one not before the stream's start.
        end: After iteration, the second of the container clock up to which picture was decoded.
    """

    def __init__(
        self,
        info: MediaInfo,
        *,
        fps: Fraction,
        size: tuple[int, int],
        reader: ReaderChoice,
        stall_timeout: float | None,
        threads: int,
    ) -> None:
        assert info.video is not None
        self.reader = ""
        self.fallback_reason = ""
        self.end = 0.0
        self.first = first_frame(info.video.start, fps)
        self._info = info
        self._fps = fps
        self._size = size
        self._choice = reader
        self._stall_timeout = stall_timeout
        self._threads = threads
        self._source: FrameSource | None = None
        self._disorder = False  # frames are known to bear times that are not theirs
        self._earlier: tuple[Gap, ...] = ()  # of a reader that another one took over from
        self._stop = threading.Event()
        self._queue: queue.Queue[FrameBlock | BaseException | None] = queue.Queue(QUEUE_BLOCKS)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[FrameBlock]:
        if self._thread is not None:
            raise RuntimeError("a VideoReader can be iterated only once")
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()
        try:
            while (item := self._next()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without a decoded frame: all that overlap what was yielded, perhaps more."""
        source = self._source
        return self._earlier if source is None else self._earlier + source.gaps

    @property
    def pid(self) -> int | None:
        """Process id of the decoder at work, None where none is."""
        return getattr(self._source, "pid", None)

    def close(self) -> None:
        """End the decoder and its thread. May be called again."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            while self._thread.is_alive():
                source = self._source
                if source is not None:
                    source.kill()
                self._drain()
                self._thread.join(0.05)

    def _next(self) -> FrameBlock | BaseException | None:
        """What the thread decoded next; a thread that is asked to leave waits for nothing."""
        while interruption() is not None:
            check_interruption()
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=POLL_S)
        return self._queue.get()

    def _drain(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return

    def _put(self, item: FrameBlock | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def _produce(self) -> None:
        """Thread: decode into the queue; None marks the end, an exception is raised there."""
        try:
            with contextlib.closing(self._blocks()) as blocks:
                for block in blocks:
                    self._put(block)
                    if self._stop.is_set():
                        return
        except BaseException as error:  # raised again in the thread that iterates
            self._put(error)
        else:
            self._put(None)

    def _blocks(self) -> Generator[FrameBlock, None, None]:
        """Blocks of the reader that was chosen; under ``auto``, ffmpeg's after decord's fault."""
        upcoming = self.first
        if self._wants_decord():
            self.reader = "decord"
            try:
                for block in self._run(self._open_decord):
                    yield block
                    upcoming = block.first + len(block.frames)
            except DecordFault as fault:
                if self._stop.is_set():  # the fault is that somebody left early
                    return
                if self._choice == "decord":
                    raise MediaError(
                        self._info.path,
                        f"decord cannot read it: {fault}",
                        hint="use the reader auto or ffmpeg",
                    ) from fault
                self.fallback_reason = str(fault)
                self._disorder = isinstance(fault, DisorderFault)
            else:
                return
        self.reader = "decord+ffmpeg" if upcoming > self.first else "ffmpeg"
        yield from self._run(lambda: self._open_ffmpeg(upcoming))

    def _wants_decord(self) -> bool:
        if self._choice == "auto":
            self.fallback_reason = decord_objection(self._info, self._size)
        return self._choice == "decord" or (self._choice == "auto" and not self.fallback_reason)

    def _run(self, start: Callable[[], FrameSource]) -> Iterator[FrameBlock]:
        source = start()
        self._earlier, self._source = self.gaps, source
        try:
            yield from source
            self.end = source.end
        finally:
            source.close()

    def _open_decord(self) -> FrameSource:
        return DecordFrames(
            self._info,
            fps=self._fps,
            size=self._size,
            first=self.first,
            stall_timeout=DECORD_STALL_S if self._stall_timeout is None else self._stall_timeout,
            # decord tells nobody of the packets that it passed over to find its way again.
            gaps_are_faults=self._choice == "auto",
        )

    def _open_ffmpeg(self, first: int) -> FrameSource:
        return FfmpegFrames(
            self._info,
            fps=self._fps,
            size=self._size,
            first=first,
            disorder=self._disorder,
            stall_timeout=FFMPEG_STALL_S if self._stall_timeout is None else self._stall_timeout,
            threads=self._threads,
        )
