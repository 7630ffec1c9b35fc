"""How long the streams of a file are, by what it promises or by its last packets.

Seconds of the container clock; see `extractors.media.probe`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from pipeline.core.errors import MediaError

LONGEST_S = 10 * 365 * 86400.0  # a promise beyond this is a broken header
# A still picture of an hour can be a few kilobytes; far less means that timestamps are damaged, and
# decoding would repeat a frame for days.
SPARSE_FROM_S = 3600.0
SPARSE_BYTES_PER_S = 2.0
# Durations of these are guessed from the bit rate, often far off.
GUESSED_DURATION = {"aac", "mp3", "ac3", "eac3", "dts", "h264", "hevc", "m4v", "mpegvideo", "av1"}


def check_density(path: Path, size: int, duration: float | None) -> None:
    """Refuse a file that promises more hours than its bytes can hold.

    Args:
        path: The file.
        size: Its bytes.
        duration: Seconds it promises; None where it does not say.

    Raises:
        MediaError: It holds fewer than `SPARSE_BYTES_PER_S` over more than `SPARSE_FROM_S`.
    """
    if duration is None or duration <= SPARSE_FROM_S or size >= SPARSE_BYTES_PER_S * duration:
        return
    raise MediaError(
        path,
        f"promises {duration / 3600:.1f} hours in {size} bytes: its timestamps are damaged",
        hint="copy or download it again",
    )


def _plausible(seconds: float | None) -> float | None:
    if seconds is None or not math.isfinite(seconds) or not 0 < seconds < LONGEST_S:
        return None
    return seconds


def promised_end(container: Any, stream: Any, zero: float) -> float | None:
    """Second of the container clock at which a stream ends, from the headers alone."""
    if GUESSED_DURATION & set(container.format.name.split(",")):
        return None
    if stream.duration is not None:
        start = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)
        return _plausible(start - zero + float(stream.duration * stream.time_base))
    tagged = _clock_text(stream.metadata.get("DURATION", ""))
    if tagged is not None:  # Matroska: the end on the file's own clock
        return _plausible(tagged - zero)
    if container.duration is None:
        return None
    end = float(Fraction(container.duration, av.time_base))
    return _plausible(end - zero if "matroska" in container.format.name else end)


def _clock_text(text: str) -> float | None:
    """Seconds of a ``hh:mm:ss.fraction`` tag."""
    parts = text.split(":")
    if len(parts) != 3:
        return None
    with contextlib.suppress(ValueError):
        return int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])
    return None


def scan_ends(
    container: Any, ends: dict[int, float | None], zero: float
) -> dict[int, float | None]:
    """Ends of streams by their last packets, for files that do not say."""
    last: dict[int, float | None] = dict(ends)
    for packet in packets(container, [container.streams[index] for index in ends]):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            continue
        end = float((stamp + (packet.duration or 0)) * packet.time_base) - zero
        last[packet.stream_index] = max(last[packet.stream_index] or 0.0, end)
    return {index: _plausible(end) for index, end in last.items()}


def packets(container: Any, streams: list[Any]) -> Iterator[Any]:
    """Packets until the file ends, be it in good order or in a broken place."""
    # PyAV raises IndexError for a packet of a stream that damage has made up on the way.
    with contextlib.suppress(av.FFmpegError, IndexError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet
