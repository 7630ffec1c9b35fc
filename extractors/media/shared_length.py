"""Where the streams of a file end whose header does not say it of each.

FLV, ASF and Matroska without tags say how long the file is, which is the end of its longest stream.
A shorter one ends where its last packet does; that the file itself is whole is seen by the longest.

MPEG-TS, MPEG-PS and what was sent live as FLV say nothing: libavformat takes the last timestamp in
the file, behind which other frames may follow that bear none.

Seconds of the container clock; see `extractors.media.probe`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av

from extractors.media.lengths import clock_text, own_ticks, scan_ends

TAIL_S = 10.0  # before the end, in which the last packets are looked for first
# libavformat hands each stream the length of the file, or its last timestamp.
HANDED_ON = {"asf", "wtv", "mpegts", "mpeg", "flv", "nut"}
REACH_S = 1.0  # of the promised end: what comes nearer with its last packet was not broken off


def has_own_length(container: Any, stream: Any) -> bool:
    """Whether a file says of a stream how long it is, and not only of the file."""
    if container.format.name in HANDED_ON:
        return False
    told = clock_text(stream.metadata.get("DURATION", ""))
    return told is not None or own_ticks(container, stream) is not None


def own_ends(
    opened: Callable[[], Any],
    ends: dict[int, float | None],
    *,
    shared: set[int],
    zero: float,
    may_scan: bool,
) -> dict[int, float | None]:
    """Promised ends, moved to those of the last packets.

    Args:
        opened: Opens the file once more.
        ends: Second at which each stream in use ends, as far as the header says.
        shared: Streams of which it says no more than of the file.
        zero: Timestamp in seconds that the container clock calls zero.
        may_scan: Whether the file may be read to its end where its last seconds do not tell.

    Returns:
        The last packet's end for a shorter stream, None where none was found; for the longest, the
        later of that and the promise. ``ends`` where all streams were broken off, or nothing is
        known of their last packets.
    """
    promised = max((end for end in ends.values() if end is not None), default=None)
    if promised is None or not shared:
        return ends
    last = _last_packets(opened, ends, zero, start=max(0.0, promised - TAIL_S), scan=may_scan)
    if None in last.values() and may_scan:
        last = _last_packets(opened, ends, zero, start=0.0)
    longest = max(ends, key=lambda index: last[index] or 0.0)
    reached = last[longest] or 0.0
    if not promised - REACH_S <= reached <= promised + TAIL_S:
        return ends
    moved = {index: last[index] for index in shared - {longest}}
    if longest in shared:
        moved[longest] = max(promised, reached)
    return ends | moved


def _last_packets(
    opened: Callable[[], Any],
    ends: dict[int, float | None],
    zero: float,
    *,
    start: float,
    scan: bool = True,
) -> dict[int, float | None]:
    """Ends of the last packets from a second on; None for streams that have none there.

    Where that second cannot be found, all packets are looked at, or with ``scan=False`` none.
    """
    with opened() as container:
        if start > 0:
            try:
                container.seek(round((start + zero) * av.time_base))
            except av.FFmpegError:
                if not scan:
                    return dict.fromkeys(ends)
        return scan_ends(container, dict.fromkeys(ends), zero)
