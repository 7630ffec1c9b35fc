"""Whether the end of a file is missing, for containers that promise no length.

Nothing in MPEG-TS and Ogg says how long they are: a copy that was broken off is shorter and plays
to its end without an error. But it hardly ever ends where a packet does, and Ogg marks its last
page (RFC 3533, section 6). MPEG-PS has an end code that many programs, ffmpeg among them, leave
out, so that its absence says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

TS_SYNC = 0x47
TS_BYTES = 188
TS_GRIDS = {188: 188, 192: 188, 204: 204}  # from one sync byte to the next: what a whole packet has
TS_PACKETS = 16  # whose sync bytes must be where they belong to be believed
OGG_MAGIC = b"OggS\0"
OGG_HEADER = 27
OGG_LONGEST = OGG_HEADER + 255 + 255 * 255
OGG_LAST_PAGE = 4


def tail_fault(path: Path, container: str) -> str:
    """What shows that the end of a file is missing; "" where nothing does.

    Reads its last 128 KiB at most.

    Args:
        path: The file.
        container: Name of its format, as libavformat gives it.
    """
    if container == "mpegts":
        return _transport_fault(_tail(path, (TS_PACKETS + 1) * max(TS_GRIDS)))
    if container == "ogg":
        return _ogg_fault(_tail(path, 2 * OGG_LONGEST))
    return ""


def _tail(path: Path, length: int) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - length))
        return stream.read(length)


def _transport_fault(tail: bytes) -> str:
    """Where the sync bytes before the end lie on a grid, it says where the file should end."""
    for step, whole in TS_GRIDS.items():
        for first in range(min(step, len(tail))):
            places = tail[first::step]
            if len(places) >= TS_PACKETS and places.count(TS_SYNC) == len(places):
                left = len(tail) - first - (len(places) - 1) * step
                return "" if left == whole else "it ends in the middle of a packet"
    return ""


def _ogg_fault(tail: bytes) -> str:
    """The last page of a file is the last one of a stream, and must say so."""
    place = tail.rfind(OGG_MAGIC)
    header = tail[place : place + OGG_HEADER]
    if place < 0:
        return ""  # whatever follows an Ogg stream there
    if len(header) < OGG_HEADER:
        return "it ends in the middle of a page"
    sizes = tail[place + OGG_HEADER : place + OGG_HEADER + header[-1]]
    if place + OGG_HEADER + header[-1] + sum(sizes) > len(tail):
        return "it ends in the middle of a page"
    return "" if header[5] & OGG_LAST_PAGE else "its last page does not say that it is the last"
