"""The disposable process that runs decord; the only module that imports it.

Started by `extractors.media.video_decord` as ``python -m extractors.media.decord_child REQUEST
PATH``. decord can hang, crash, print the file's bytes, and decode ahead without bound (its issues
157, 197, 208, 299, 373): here all of that costs one process. It is read in the only mode that
proved true on damaged and unusual files: from frame 0 in one piece, one thread, output size given,
``fault_tol=1``, timestamps checked.

Messages on standard output: one byte for the kind, eight bytes little-endian for the length n,
then n bytes. ``b"G"``: first and last second of each gap between frames, float64; comes first.
``b"F"``: some frames, raw rgb24, in order of the grid; ``b"E"``: the end, a float64 second;
``b"X"``: a reason, UTF-8, why decord's answer is not to be trusted for this file.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from extractors.media.blocks import first_samples
from extractors.media.gaps import least_gap

HEADER = struct.Struct("<cQ")
CHUNK_FRAMES = 32
PARENT_CHECK_S = 1.0
DISORDER = "decord's timestamps do not increase"


class DistrustError(Exception):
    """What decord says about this file cannot be true, or is more than the memory allows."""


def main(arguments: list[str]) -> int:
    """Decode one file as the JSON request says; see `serve` for its keys."""
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decord and its ffmpeg print to standard output now and then
    request = json.loads(arguments[0])
    _leave_with_parent()
    _limit_memory(int(request["memory"]))
    try:
        end = serve(arguments[1], request, channel)
    except BrokenPipeError:
        return 0
    except Exception as error:  # decord raises many types; each means: do not trust this file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][-300:]
        _send(channel, b"X", reason.encode("utf-8", "replace"))
        return 1
    _send(channel, b"E", struct.pack("<d", end))
    return 0


def serve(path: str, request: dict[str, Any], channel: BinaryIO) -> float:
    """Write the frames of ``path`` on the grid to ``channel``.

    Args:
        path: The file.
        request: ``width``, ``height``: size of the frames; ``fps``, ``time_base``: fractions as
            text; ``start``: tick of the first frame on the container clock; ``first``, ``limit``:
            first sample wanted and first one not wanted; ``budget``: bytes that all decoded frames
            together may take.
        channel: Where the messages go.

    Returns:
        Second of the container clock at which the last frame leaves the screen.

    Raises:
        DistrustError: The timestamps or the length are not those of a sound file.
    """
    import decord

    width, height = int(request["width"]), int(request["height"])
    reader = decord.VideoReader(
        path, ctx=decord.cpu(0), width=width, height=height, num_threads=1, fault_tol=1
    )
    count = len(reader)
    if count * width * height * 3 > int(request["budget"]):
        raise DistrustError(f"{count} frames of {width}x{height} are more than decord may hold")
    fps = Fraction(request["fps"])
    time_base = Fraction(request["time_base"])
    spans = np.asarray(reader.get_frame_timestamp(range(count)), dtype=np.float64)
    ticks, end_tick = checked_ticks(spans, time_base)
    start = int(request["start"])
    _send(channel, b"G", _gaps(ticks, start, time_base).tobytes())
    samples = first_samples([tick + start for tick in [*ticks, end_tick]], time_base, fps)
    samples[0] = min(samples[0], int(request["first"]))
    wanted = np.clip(samples, int(request["first"]), int(request["limit"]))
    for low in range(0, count, CHUNK_FRAMES):
        frames = reader.get_batch(range(low, min(count, low + CHUNK_FRAMES))).asnumpy()
        shown = np.diff(wanted[low : low + CHUNK_FRAMES + 1])
        order = np.repeat(np.arange(len(frames)), shown)
        for place in range(0, len(order), CHUNK_FRAMES):
            piece = frames[order[place : place + CHUNK_FRAMES]]
            _send(channel, b"F", piece.data.cast("B"))
    return min(float((end_tick + start) * time_base), float(request["limit"] / fps))


def checked_ticks(spans: NDArray[np.float64], time_base: Fraction) -> tuple[list[int], int]:
    """Timestamps in ticks, counted from the first frame, and the tick at which the last one ends.

    Args:
        spans: (n, 2) start and end second of each frame, as decord gives them.
        time_base: Seconds of one tick.

    Raises:
        DistrustError: Not finite, not strictly increasing, or not starting at 0: decord does that
            on formats and edit lists it does not understand, without an error.
    """
    if spans.ndim != 2 or len(spans) == 0:
        raise DistrustError("decord sees no frames")
    starts, ends = spans[:, 0], spans[:, 1]
    if not np.isfinite(spans).all() or np.abs(spans).max() > 1e9:
        raise DistrustError("decord's timestamps are not finite")
    if abs(starts[0]) > 0.5 * float(time_base):
        raise DistrustError(f"decord's first frame is at {starts[0]:.3f} s instead of 0")
    ticks = [round(second / time_base) for second in map(Fraction, starts.tolist())]
    gaps = np.diff(ticks)
    if (gaps <= 0).any():
        raise DistrustError(DISORDER)
    last = round(Fraction(float(ends[-1])) / time_base)
    usual = int(np.median(gaps)) if len(gaps) else 1
    if last - ticks[-1] < max(1, usual // 2):  # no duration for the last frame, or one of a tick
        last = ticks[-1] + usual
    return ticks, last


def _gaps(ticks: list[int], start: int, time_base: Fraction) -> NDArray[np.float64]:
    """(n, 2) seconds between which no frame starts though one is due.

    decord ends with an error where frames are damaged, so these are gaps in the file itself.
    """
    seconds = (np.asarray(ticks, dtype=np.float64) + start) * float(time_base)
    lengths = np.diff(seconds)
    usual = float(np.median(lengths)) if len(lengths) else 0.0
    before = np.flatnonzero(lengths - usual > least_gap(usual, damaged=False))
    return np.stack([seconds[before] + usual, seconds[before + 1]], axis=1).astype("<f8")


def _send(channel: BinaryIO, kind: bytes, payload: bytes | memoryview) -> None:
    channel.write(HEADER.pack(kind, len(payload)))
    channel.write(payload)
    channel.flush()


def _limit_memory(limit: int) -> None:
    """Make allocations beyond ``limit`` bytes of address space fail, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _leave_with_parent() -> None:
    """End this process when its parent is gone: nobody else would kill a hung decoder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
