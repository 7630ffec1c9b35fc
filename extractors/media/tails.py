"""Whether the end of a file is missing, for containers that promise no length.

Nothing in MPEG-TS, MPEG-PS and Ogg says how long they are: a copy that was broken off is shorter
and plays to its end without an error. What tells:

* It hardly ever ends where a packet does. Packets of MPEG-PS say how long they are, those of
  MPEG-TS have one length, and Ogg marks its last page (RFC 3533, section 6). `tail_fault` reads
  that; no whole file looks so.
* In MPEG-TS, what one packet begins others go on with: a file that ends between two of them still
  ends within a picture or a stretch of sound (ISO/IEC 13818-1, 2.4.3.6). So does a broadcast whose
  recording was stopped, which lacks nothing that anybody wanted: `open_end` is a thing to be told,
  not a fault.

MPEG-PS has an end code that many programs, ffmpeg among them, leave out, so that its absence says
nothing: where a copy ends exactly between two of its packets, nothing tells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 1 << 17
TS_SYNC = 0x47
TS_BYTES = 188
TS_GRIDS = {188: 188, 192: 188, 204: 204}  # from one sync byte to the next: what a whole packet has
TS_PACKETS = 16  # whose sync bytes must be where they belong to be believed
PS_END, PS_PACK = 0xB9, 0xBA  # last bytes of start codes; higher ones are those of streams
PS_HEADER = 14
PS_PACKETS = 4  # that must follow one upon the other to be believed
START = b"\0\0\1"
OGG_MAGIC = b"OggS\0"
OGG_HEADER = 27
OGG_LAST_PAGE = 4


def tail_fault(path: Path, container: str) -> str:
    """What shows that the end of a file is missing; "" where nothing does.

    Reads its last 128 KiB at most.

    Args:
        path: The file.
        container: Name of its format, as libavformat gives it.
    """
    find = {"mpegts": _transport_fault, "mpeg": _program_fault, "ogg": _ogg_fault}.get(container)
    return "" if find is None else find(_tail(path))


def open_end(path: Path, container: str, streams: Mapping[int, str]) -> str:
    """Which streams end within what their last packets began; "" where none does, or nobody knows.

    Reads the last 128 KiB of a transport stream at most, and nothing of other files.

    Args:
        path: The file.
        container: Name of its format, as libavformat gives it.
        streams: What to call each stream, by its number in the container (PID).
    """
    if container != "mpegts":
        return ""
    tails = {number: _StreamTail() for number in streams}
    for packet in _transport_packets(_tail(path)):
        number = int.from_bytes(packet[1:3], "big") & 0x1FFF
        if number in tails:
            tails[number].take(packet)
    found = [name for number, name in streams.items() if tails[number].is_open]
    return " and ".join(found)


def _tail(path: Path) -> bytes:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        return stream.read(TAIL_BYTES)


def _transport_grid(tail: bytes) -> tuple[int, int] | None:
    """First sync byte and distance from one to the next; None where none are believed."""
    for step in TS_GRIDS:
        for first in range(min(step, len(tail))):
            places = tail[first::step]
            if len(places) >= TS_PACKETS and places.count(TS_SYNC) == len(places):
                return first, step
    return None


def _transport_fault(tail: bytes) -> str:
    """Where the sync bytes before the end lie on a grid, it says where the file should end."""
    tail = tail[-(TS_PACKETS + 1) * max(TS_GRIDS) :]
    grid = _transport_grid(tail)
    if grid is None:
        return ""
    first, step = grid
    left = (len(tail) - first - 1) % step + 1
    return "" if left == TS_GRIDS[step] else "it ends in the middle of a packet"


def _transport_packets(tail: bytes) -> Iterator[bytes]:
    """The packets behind the last place where the sync bytes are not where they belong."""
    near = len(tail) - min(len(tail), (TS_PACKETS + 1) * max(TS_GRIDS))
    grid = _transport_grid(tail[near:])
    if grid is None:
        return
    first, step = near + grid[0], grid[1]
    while first >= step and tail[first - step] == TS_SYNC:
        first -= step
    for place in range(first, len(tail) - TS_BYTES + 1, step):
        yield tail[place : place + TS_BYTES]


@dataclass(slots=True)
class _StreamTail:
    """What the last packets of one stream say of its last picture or stretch of sound.

    Attributes:
        promised: Bytes that it announced; None where it did not, as pictures need not.
        there: Bytes of it that came.
        filled: Whether the last packet is full to its end: padding stands behind whatever is
            over, but for one in 184 that end exactly there.
    """

    promised: int | None = None
    there: int = 0
    filled: bool = False

    def take(self, packet: bytes) -> None:
        """The next packet of this stream."""
        control = packet[3] >> 4
        if not control & 1:  # no data in it
            return
        adaptation = packet[4] + 1 if control & 2 else 0
        data = packet[4 + adaptation :]
        if packet[1] & 0x40 and data[:3] == START:  # something begins here
            length = int.from_bytes(data[4:6], "big")
            self.promised = 6 + length if length else None
            self.there = 0
        self.there += len(data)
        self.filled = not adaptation or _adaptation_bytes(packet) == adaptation

    @property
    def is_open(self) -> bool:
        """Whether more must have followed, or has most likely."""
        return self.filled if self.promised is None else self.there < self.promised


def _adaptation_bytes(packet: bytes) -> int:
    """Bytes of an adaptation field that say something, its length included: no padding."""
    if packet[4] == 0:  # a single byte of padding
        return 0
    flags = packet[5]
    used = 2 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    for has_more in (flags & 0x02, flags & 0x01):  # private data; extension
        if has_more and used <= packet[4] and 4 + used < TS_BYTES:
            used += 1 + packet[4 + used]
    return used


def _program_fault(tail: bytes) -> str:
    """Each packet says where the next one begins: followed from any pack on, up to the end."""
    place = tail.find(START + bytes([PS_PACK]))
    while place >= 0:
        fault = _follow(tail, place)
        if fault is not None:
            return fault
        place = tail.find(START + bytes([PS_PACK]), place + 1)
    return ""


def _follow(tail: bytes, place: int) -> str | None:
    """What the packets from ``place`` on say of the end; None where they are no packets."""
    count = 0
    while place < len(tail):
        head = tail[place : place + PS_HEADER]
        if not head.startswith(START) or head[3:4] < bytes([PS_END]):  # padding, or damage
            break
        if head[3] == PS_END:
            return ""
        length = _packet_length(head)
        if length is None or place + length > len(tail):
            return "it ends in the middle of a packet" if count >= PS_PACKETS else None
        place += length
        count += 1
    return "" if count >= PS_PACKETS else None


def _packet_length(head: bytes) -> int | None:
    """Bytes of a packet of MPEG-PS, by its first 14; None where they are not all there."""
    if len(head) < 6:
        return None
    if head[3] != PS_PACK:
        return 6 + int.from_bytes(head[4:6], "big")
    if head[4] >> 6 != 1:  # MPEG-1
        return 12
    return PS_HEADER + (head[13] & 7) if len(head) == PS_HEADER else None


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
