"""One modality on its way from the decoder to feature rows, in bounded memory.

A lane pulls decoded blocks, keeps what windows to come still need, and answers with the features
of consecutive steps. Shapes: n steps, D embedding width, K class scores, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.ahead import PreparedAhead
from extractors.buffer import SlidingBuffer
from extractors.media.blocks import FrameBlock, OpenPicture, OpenSound
from extractors.media.gaps import Gap
from extractors.spec import (
    AudioEncoder,
    Encoded,
    EncoderSpec,
    FramePreparer,
    StretchEncoder,
    VisionEncoder,
)
from extractors.windows import WindowGrid
from pipeline.core.errors import MediaError


class Lane(Protocol):
    """The decoder and the encoder of one modality.

    Attributes:
        start: First second of the stream.
    """

    start: float

    @property
    def reach(self) -> float:
        """Second up to which windows can be answered; the decoded end once the lane is over."""

    @property
    def over(self) -> bool:
        """Whether nothing more can be pulled."""

    @property
    def failure(self) -> MediaError | None:
        """Why the decoder gave up; None where it did not."""

    @property
    def reader(self) -> str:
        """Name of the reader, with the reason of a fallback; "" before the first pull."""

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without a decoded frame, all up to `reach` among them."""

    def pull(self) -> None:
        """Take one more block from the decoder."""

    def encode(self, first: int, mask: NDArray[np.bool_]) -> Encoded:
        """Features of the steps ``first`` + 0 .. n-1; what only they needed is forgotten.

        Args:
            first: First step; the end of the last call.
            mask: (n,) steps that hold enough of the stream; the others come out as zeros.

        Returns:
            (n, D) embeddings and (n, K) class scores.
        """


class PictureLane:
    """What the two kinds of picture lane share.

    Args:
        reader: Open reader of the file.
        encoder: The net.
        grid: Where windows lie.
        start: First second of the stream.
        batch_size: Frames or windows that the net sees at once.
        strict: Whether a decoder that gives up is an error, and not the end of the picture.
        resources: Closes the reader.
    """

    def __init__(
        self,
        reader: OpenPicture,
        encoder: VisionEncoder,
        grid: WindowGrid,
        *,
        start: float,
        batch_size: int,
        strict: bool,
        resources: ExitStack,
    ) -> None:
        self.start = start
        self.failure: MediaError | None = None
        self._encoder = encoder
        self._spec = encoder.spec
        self._grid = grid
        self._batch = batch_size
        self._strict = strict
        self._source = resources.enter_context(reader)
        blocks: Iterable[FrameBlock] = self._source
        if isinstance(encoder, FramePreparer):
            blocks = resources.enter_context(PreparedAhead(self._source, encoder.prepare))
        self._blocks = iter(blocks)
        self._decoded_all = False
        self._end = 0.0
        self._pixels: SlidingBuffer | None = None  # frames that wait for the net

    @property
    def reader(self) -> str:
        """Name of the reader, with the reason of a fallback."""
        reason = self._source.fallback_reason
        return f"{self._source.reader} ({reason})" if reason else self._source.reader

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without a decoded frame."""
        return self._source.gaps

    def _decode(self) -> None:
        """Append one block of frames, or learn that there are no more."""
        try:
            block = None if self._decoded_all else next(self._blocks, None)
        except MediaError as error:
            if self._strict:
                raise
            self.failure, block = error, None
        if block is None:
            self._decoded_all = True
            # A decoder that gave up midway names no end; its last frame was there.
            self._end = max(self._end, self._source.end)
            return
        frames = block.frames
        if self._pixels is None:
            self._pixels = SlidingBuffer(frames.shape[1:], np.uint8, first=block.first)
        self._pixels.append(frames)
        # Sample j says that the picture lasts to second j / fps at least.
        self._end = self._grid.frame_second(self._pixels.stop - 1)


class FrameLane(PictureLane):
    """Picture for a net that sees single frames: each one once, averaged over its windows."""

    _encoded: SlidingBuffer | None = None

    @property
    def reach(self) -> float:
        """Second up to which windows can be answered."""
        if self.over or self._encoded is None:
            return self._end if self.over else 0.0
        return self._grid.frame_second(max(0, self._encoded.stop - 1))

    @property
    def over(self) -> bool:
        """Whether all frames have been decoded and encoded."""
        return self._decoded_all and (self._pixels is None or len(self._pixels) == 0)

    def pull(self) -> None:
        """Decode one block and encode all full batches; at the end, the rest."""
        self._decode()
        if self._pixels is None:
            return
        if self._encoded is None:
            width = self._spec.dim + self._spec.classes
            self._encoded = SlidingBuffer((width,), np.float32, first=self._pixels.start)
        # Batches of one size whatever the blocks were: equal files give equal bits.
        least = 1 if self._decoded_all else self._batch
        while len(self._pixels) >= least:
            low = self._pixels.start
            high = min(low + self._batch, self._pixels.stop)
            self._encoded.append(_joined(self._encoder.embed(self._pixels.rows(low, high))))
            self._pixels.drop(high)

    def encode(self, first: int, mask: NDArray[np.bool_]) -> Encoded:
        """Mean over the frames that each window has; see `Lane.encode`."""
        if self._encoded is None:
            return _split(np.zeros((len(mask), self._spec.dim + self._spec.classes)), self._spec)
        sums, counts = window_sums(self._encoded, first, len(mask), self._grid)
        means = sums / np.maximum(counts, 1)[:, None]
        means[~mask] = 0
        self._encoded.drop((first + len(mask)) * self._grid.stride)
        return _split(means.astype(np.float32), self._spec)


class ClipLane(PictureLane):
    """Picture for a net that sees all frames of a window.

    Frames that a window at the borders of the stream lacks are repetitions of its nearest one.
    """

    @property
    def reach(self) -> float:
        """Second up to which windows can be answered."""
        if self.over or self._pixels is None:
            return self._end if self.over else 0.0
        return self._grid.frame_second(max(0, self._pixels.stop - 1 - self._spec.overhang))

    @property
    def over(self) -> bool:
        """Whether all frames have been decoded."""
        return self._decoded_all

    def pull(self) -> None:
        """Decode one block."""
        self._decode()

    def encode(self, first: int, mask: NDArray[np.bool_]) -> Encoded:
        """Features of whole windows; see `Lane.encode`."""
        out = np.zeros((len(mask), self._spec.dim + self._spec.classes), np.float32)
        for steps in _batches(mask, self._batch, self._encoder):
            if isinstance(self._encoder, StretchEncoder):
                frames = self._frames(np.arange(*self._bounds(first + steps)))
                answer = self._encoder.embed_stretch(frames, len(steps))
            else:
                answer = self._encoder.embed(self._windows(first + steps))
            out[steps] = _joined(answer)
        if self._pixels is not None:
            # The last frame stays: it fills windows that reach past the end.
            end = (first + len(mask)) * self._grid.stride
            self._pixels.drop(min(end, self._pixels.stop - 1))
        return _split(out, self._spec)

    def _windows(self, steps: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, window + overhang, H, W, 3) frames of some steps."""
        width = self._grid.window + self._spec.overhang
        return self._frames(steps[:, None] * self._grid.stride + np.arange(width))

    def _bounds(self, steps: NDArray[np.int64]) -> tuple[int, int]:
        """First frame that some steps in a row see, and the one after the last."""
        grid = self._grid
        stop = int(steps[-1]) * grid.stride + grid.window + self._spec.overhang
        return int(steps[0]) * grid.stride, stop

    def _frames(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(..., H, W, 3) frames by their numbers, (...)."""
        assert self._pixels is not None
        pixels = self._pixels
        places = np.clip(wanted, pixels.start, pixels.stop - 1) - pixels.start
        frames: NDArray[np.uint8] = pixels.rows(pixels.start, pixels.stop)[places]
        return frames


class SoundLane:
    """Sound for a net that hears whole windows; beyond the stream's borders lies silence.

    Args:
        reader: Open reader of the file.
        encoder: The net.
        grid: Where windows lie.
        start: First second of the stream.
        batch_size: Windows that the net hears at once.
        resources: Closes the reader.
    """

    def __init__(
        self,
        reader: OpenSound,
        encoder: AudioEncoder,
        grid: WindowGrid,
        *,
        start: float,
        batch_size: int,
        resources: ExitStack,
    ) -> None:
        self.start = start
        self.over = False
        self._spec = encoder.spec
        self.failure: MediaError | None = None
        self._encoder = encoder
        self._grid = grid
        self._batch = batch_size
        self._source = reader
        self._blocks: Iterator[NDArray[np.float32]] = iter(resources.enter_context(reader))
        self._samples = SlidingBuffer((), np.float32)

    @property
    def reach(self) -> float:
        """Second up to which windows can be answered."""
        ahead = 0 if self.over else self._spec.overhang
        return max(0, self._samples.stop - ahead) / self._grid.sample_rate

    @property
    def reader(self) -> str:
        """Name of the reader."""
        return self._source.reader

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Stretches without decoded sound."""
        return self._source.gaps

    def pull(self) -> None:
        """Decode one block."""
        try:
            block = next(self._blocks, None)
        except MediaError as error:
            self.failure, block = error, None
        if block is None:
            self.over = True
        else:
            self._samples.append(block)

    def encode(self, first: int, mask: NDArray[np.bool_]) -> Encoded:
        """Features of whole windows; see `Lane.encode`."""
        out = np.zeros((len(mask), self._spec.dim + self._spec.classes), np.float32)
        for steps in _batches(mask, 1 if self._short else self._batch, self._encoder):
            if isinstance(self._encoder, StretchEncoder):
                stretch = self._stretch(int(first + steps[0]), len(steps))
                answer = self._encoder.embed_stretch(stretch, len(steps))
            else:
                answer = self._encoder.embed(self._windows(first + steps))
            out[steps] = _joined(answer)
        self._samples.drop((first + len(mask)) * self._grid.stride_samples)
        return _split(out, self._spec)

    @property
    def _short(self) -> bool:
        """Whether the encoder is handed less than a window, because the stream has no more."""
        repeats = self._spec.short_sound == "repeat"
        return repeats and self.over and self._samples.stop < self._grid.window_samples

    def _windows(self, steps: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, S) samples of some steps, zeros where the stream has none; see `_short`."""
        if self._short:
            begin = int(steps[0]) * self._grid.stride_samples
            return self._samples.rows(begin, begin + self._grid.window_samples)[None]
        return np.stack([self._stretch(int(step), 1) for step in steps])

    def _stretch(self, step: int, count: int) -> NDArray[np.float32]:
        """(S,) samples that some steps in a row hear, zeros where the stream has none."""
        grid = self._grid
        width = (count - 1) * grid.stride_samples + grid.window_samples + self._spec.overhang
        stretch = np.zeros(width, np.float32)
        samples = self._samples.rows(step * grid.stride_samples, step * grid.stride_samples + width)
        stretch[: len(samples)] = samples
        return stretch


def window_sums(
    rows: SlidingBuffer, first: int, count: int, grid: WindowGrid
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of the frames in each window, and how many of them there are.

    Frames are added one by one in their order, so that a window's sum depends on no other window.

    Args:
        rows: One row of width E per frame of the grid, with a beginning and an end.
        first: First step.
        count: Number n of steps.
        grid: Where windows lie.

    Returns:
        (n, E) sums and (n,) numbers of frames.
    """
    low = first * grid.stride
    span = (count - 1) * grid.stride + grid.window
    begin, end = max(low, rows.start), min(low + span, rows.stop)
    frames = np.zeros((span, *rows.shape), np.float64)
    there = np.zeros(span, np.int64)
    if begin < end:
        frames[begin - low : end - low] = rows.rows(begin, end)
        there[begin - low : end - low] = 1
    sums = np.zeros((count, *rows.shape), np.float64)
    counts = np.zeros(count, np.int64)
    last = (count - 1) * grid.stride + 1
    for offset in range(grid.window):
        sums += frames[offset : offset + last : grid.stride]
        counts += there[offset : offset + last : grid.stride]
    return sums, counts


def _batches(mask: NDArray[np.bool_], size: int, encoder: object) -> list[NDArray[np.int64]]:
    """Steps that are wanted, in batches; nets that share get all that follow each other at once."""
    wanted = np.flatnonzero(mask)
    if isinstance(encoder, StretchEncoder):
        return [
            run for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1) if len(run)
        ]
    return [wanted[low : low + size] for low in range(0, len(wanted), size)]


def _joined(answer: Encoded) -> NDArray[np.float32]:
    """Embeddings and class scores side by side, (n, D + K)."""
    if answer.scores is None:
        return answer.embeddings
    return np.concatenate([answer.embeddings, answer.scores], axis=1)


def _split(rows: NDArray[Any], spec: EncoderSpec) -> Encoded:
    """Inverse of `_joined`."""
    scores = rows[:, spec.dim :] if spec.classes else None
    return Encoded(rows[:, : spec.dim], scores)
