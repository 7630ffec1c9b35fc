"""Frames through decord, in a child process that may die without harm."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from extractors.media.blocks import FrameBlock, block_length
from extractors.media.decord_child import DISORDER, HEADER
from extractors.media.ffmpeg import time_limit
from extractors.media.gaps import Gap
from extractors.media.info import MediaInfo
from extractors.media.process import StalledError, WatchedProcess, child_environment
from extractors.windows import first_frame

# Containers on which decord's frames and times proved right; elsewhere it lies without an error.
TRUSTED_CONTAINERS = {"mov", "mp4", "matroska", "webm", "avi"}
UNDECODABLE = {"av1"}  # decord 0.6.0 is built on FFmpeg 4.1
# decord decodes ahead of its caller without bound: the whole clip must fit.
FRAME_BUDGET = 512 << 20
MEMORY_LIMIT = FRAME_BUDGET + (3 << 30)  # address space, not memory: libraries and thread stacks
LONGEST_REASON = 4096
CHILD = ("-P", "-m", "extractors.media.decord_child")  # -P: nothing from the current folder


class DecordFault(Exception):  # noqa: N818 - not the user's error: the other reader takes over
    """decord's answer for this file is missing, late or not to be trusted."""


def decord_objection(info: MediaInfo, size: tuple[int, int]) -> str:
    """Why decord is not asked for this file at all; "" if it may be.

    Args:
        info: The file; it has a picture stream.
        size: Width and height of the frames wanted.
    """
    video = info.video
    assert video is not None
    if not TRUSTED_CONTAINERS & set(info.container.split(",")):
        return f"decord is not trusted with {info.container}"
    if video.codec in UNDECODABLE:
        return f"decord cannot decode {video.codec}"
    if not video.plain:
        return "decord is not trusted with several or mirrored pictures, edit lists, hidden frames"
    if video.duration is None:
        return "the length is unknown and decord holds whole clips"
    if float(video.rate) * video.duration * size[0] * size[1] * 3 > FRAME_BUDGET:
        return "the clip is larger than decord may hold"
    return ""


class DisorderFault(DecordFault):
    """Two frames of this file claim the same second."""


class DecordFrames:
    """`FrameSource` that reads from the child process.

    Args:
        info: The file; `decord_objection` has nothing against it.
        fps: Samples per second.
        size: Width and height of the frames.
        first: First sample wanted.
        stall_timeout: Seconds without a sign of life before the child is killed.
        gaps_are_faults: Whether a file whose frames have gaps is left to the other reader, which
            can tell damage from a picture that stood still.

    Raises:
        DecordFault: The child cannot be started, or while iterating: it failed, hung, died, or its
            answer is not to be trusted.
    """

    def __init__(
        self,
        info: MediaInfo,
        *,
        fps: Fraction,
        size: tuple[int, int],
        first: int,
        stall_timeout: float,
        gaps_are_faults: bool = False,
    ) -> None:
        video = info.video
        assert video is not None
        self.end = 0.0
        self.gaps: tuple[Gap, ...] = ()
        self._gaps_are_faults = gaps_are_faults
        self._size = size
        self._next = first
        request = {
            "width": size[0],
            "height": size[1],
            "fps": str(fps),
            "time_base": str(video.time_base),
            "start": round(Fraction(video.start) / video.time_base),
            "first": first,
            "limit": first_frame(time_limit(info) or 0.0, fps),
            "budget": FRAME_BUDGET,
            "memory": MEMORY_LIMIT,
        }
        command = [
            sys.executable,
            *CHILD,
            *(json.dumps(request), str(info.path.absolute())),
        ]
        try:
            self._child = WatchedProcess(
                command, stall_timeout=stall_timeout, environment=child_environment()
            )
        except OSError as error:
            raise DecordFault(f"decord's process does not start: {error}") from error

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def __iter__(self) -> Iterator[FrameBlock]:
        while True:
            kind, length = self._header()
            if kind == b"F":
                yield from self._frames(length)
            elif kind == b"G":
                places = np.frombuffer(self._read(length), "<f8").reshape(-1, 2)
                self.gaps = tuple(Gap(start, end, damaged=False) for start, end in places.tolist())
                if self.gaps and self._gaps_are_faults:
                    raise DecordFault(f"no frame from {places[0, 0]:.1f} to {places[0, 1]:.1f} s")
            elif kind == b"E":
                (self.end,) = struct.unpack("<d", self._read(length))
                return
            elif kind == b"X" and length <= LONGEST_REASON:
                reason = _readable(self._read(length).decode("utf-8", "replace"))
                raise (DisorderFault if reason == DISORDER else DecordFault)(reason)
            else:
                raise DecordFault(f"decord's process sent an unknown message {kind!r}")

    def kill(self) -> None:
        """End the decoder, from any thread."""
        self._child.kill()

    def close(self) -> None:
        """End the decoder and free it, from the thread that iterates."""
        self._child.close()

    def _header(self) -> tuple[bytes, int]:
        kind, length = HEADER.unpack(self._read(HEADER.size))
        return kind, length

    def _frames(self, length: int) -> Iterator[FrameBlock]:
        width, height = self._size
        left, rest = divmod(length, width * height * 3)
        if rest or not left:
            raise DecordFault("decord's process sent frames of another size")
        while left:
            count = min(left, block_length(width, height))
            frames = np.empty((count, height, width, 3), dtype=np.uint8)
            self._fill(frames.data.cast("B"))
            yield FrameBlock(self._next, frames)
            self._next += count
            left -= count

    def _read(self, length: int) -> bytes:
        buffer = bytearray(length)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, view: memoryview) -> None:
        try:
            done = self._child.fill(view)
        except StalledError as error:
            raise DecordFault(f"decord hung: {error}") from error
        if done < len(view):
            status = self._child.wait()
            words = self._child.last_words
            raise DecordFault(f"decord's process died with status {status}: {words}")


def _readable(reason: str) -> str:
    """Message of decord without times of day and places in its source code: equal runs agree."""
    return re.sub(r"^(?:\[[\d:]+\] \S+:\d+: )+", "", reason)
