"""Where the streams of a file begin, by their first packets.

libavformat looks at the first seconds of a file. A stream that begins later gets the start of the
file from it, as if it had been dark or silent until then.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from extractors.media.lengths import packets
from extractors.windows import CLOCK_RESOLUTION_S

LATE_S = 0.5  # by which first packets must contradict a start; priming takes less
WITNESSES = 5  # packets of a stream that are asked: a single one may be damaged
# Without timestamps a place is a time, and MP4 says in its index where each stream starts.
KNOWN_STARTS = {"avi", "mov", "mp4"}


def first_stamps(container: Any, streams: list[int], *, within: int) -> dict[int, list[float]]:
    """Timestamps in seconds of the first packets of each stream, the earliest first.

    Args:
        container: The file, opened anew.
        streams: Numbers of the streams.
        within: Bytes after which nobody looks any further.
    """
    found: dict[int, list[float]] = {index: [] for index in streams}
    total = 0
    for packet in packets(container, [container.streams[index] for index in streams]):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None:
            found[packet.stream_index].append(float(stamp * packet.time_base))
        total += packet.size
        if total > within or all(len(stamps) >= WITNESSES for stamps in found.values()):
            break
    return {index: sorted(stamps[:WITNESSES]) for index, stamps in found.items()}


def earlier_zero(zero: float, stamps: dict[int, list[float]]) -> float:
    """Timestamp at which a file begins, where most packets of a stream come before ``zero``."""
    return min([zero, *(known[0] for known in stamps.values() if known and _is_early(known, zero))])


def _is_early(stamps: list[float], start: float) -> bool:
    """Whether most of the first packets of a stream come before its start."""
    return stamps[len(stamps) // 2] < start - LATE_S


def believed_start(stream: Any, stamps: list[float], *, end: float | None) -> int | None:
    """Tick at which a stream starts: as libavformat says, unless its first packets contradict.

    Args:
        stream: The stream.
        stamps: Timestamps in seconds of its first packets, in order; none where nobody looked.
        end: Timestamp at which the file ends by its promise; what lies behind it is damaged.
    """
    declared = None if stream.start_time is None else int(stream.start_time)
    if not stamps or (end is not None and stamps[0] > end):
        return declared
    if declared is not None:
        start = float(declared * stream.time_base)
        if stamps[0] <= start + LATE_S and not _is_early(stamps, start):
            return declared
    return round(stamps[0] / stream.time_base)


def on_clock(stamp: int, time_base: Fraction, zero: float) -> float:
    """Second of the container clock; what lies within its resolution of zero is zero."""
    second = float(stamp * time_base) - zero
    return 0.0 if second < CLOCK_RESOLUTION_S else second
