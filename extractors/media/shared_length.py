"""Where the streams of a file end whose header knows one length for all of them.

FLV, ASF and Matroska without tags say how long the file is, which is the end of its longest stream.
A shorter one ends where its last packet does; that the file itself is whole is seen by the longest.

Seconds of the container clock; see `extractors.media.probe`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import av

from extractors.media.lengths import clock_text, scan_ends

TAIL_S = 10.0  # before the end, in which the last packets are looked for first
HANDED_ON = {"asf", "wtv"}  # libavformat hands each stream the length of the file
REACH_S = 1.0  # of the promised end: what comes nearer with its last packet was not broken off


def has_own_length(container: Any, stream: Any) -> bool:
    """Whether a file says of a stream how long it is, and not only of the file."""
    if container.format.name in HANDED_ON:
        return False
    return (
        stream.duration is not None or clock_text(stream.metadata.get("DURATION", "")) is not None
    )


def own_ends(
    opened: Callable[[], Any],
    ends: dict[int, float | None],
    *,
    shared: set[int],
    zero: float,
    may_scan: bool,
) -> dict[int, float | None]:
    """Promised ends, those of shorter streams by their last packets.

    Args:
        opened: Opens the file once more.
        ends: Second at which each stream in use ends, as far as the header says.
        shared: Streams of which it says no more than of the file.
        zero: Timestamp in seconds that the container clock calls zero.
        may_scan: Whether the file may be read to its end where its last seconds do not tell.

    Returns:
        ``ends`` where all streams were broken off, or nothing is known of their last packets; None
        for a shorter stream of which none was found.
    """
    promised = max((end for end in ends.values() if end is not None), default=None)
    if promised is None or len(ends) < 2 or not shared:
        return ends
    last = _last_packets(opened, ends, zero, start=max(0.0, promised - TAIL_S))
    if None in last.values() and may_scan:
        last = _last_packets(opened, ends, zero, start=0.0)
    longest = max(ends, key=lambda index: last[index] or 0.0)
    if abs((last[longest] or 0.0) - promised) > REACH_S:
        return ends
    shorter = shared - {longest}
    return {index: last[index] if index in shorter else end for index, end in ends.items()}


def _last_packets(
    opened: Callable[[], Any], ends: dict[int, float | None], zero: float, *, start: float
) -> dict[int, float | None]:
    """Ends of the last packets from a second on; None for streams that have none there."""
    with opened() as container:
        if start > 0:
            with contextlib.suppress(av.FFmpegError):  # then all packets are looked at
                container.seek(round((start + zero) * av.time_base))
        return scan_ends(container, dict.fromkeys(ends), zero)
