"""Whether a Matroska or WebM file ends where one of its blocks does.

What is recorded live (by browsers, or by a program that was killed) has no length in its header and
no table at its end. Its blocks have lengths (RFC 9559; RFC 8794 for the form of elements), so a
copy that was broken off, or a recorder's last write, mostly ends within one.
"""

from __future__ import annotations

import os
from pathlib import Path

TAILS = (1 << 20, 1 << 25)  # bytes before the end in which a cluster is looked for
CLUSTER = bytes.fromhex("1f43b675")
# What stands in a cluster: its time, position and predecessor, blocks, padding, checks.
INSIDE = {bytes.fromhex(id) for id in ("e7", "a7", "ab", "a3", "a0", "af", "5854", "ec", "bf")}
# What stands beside it: tables of places, tags, chapters, attachments, descriptions.
BESIDE = {
    bytes.fromhex(id)
    for id in ("1c53bb6b", "1254c367", "1043a770", "1941a469", "114d9b74", "1549a966", "1654ae6b")
}
KNOWN = INSIDE | BESIDE | {CLUSTER}
LONGEST_ID = 4
ELEMENTS = 3  # that must follow one upon the other to be believed


def matroska_fault(path: Path) -> str:
    """What shows that the end of a file is missing; "" where nothing does.

    Reads its last 32 MiB at most.

    Args:
        path: The file.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        for length in TAILS:
            stream.seek(max(0, size - length))
            tail = stream.read(length)
            place = len(tail)
            while (place := tail.rfind(CLUSTER, 0, place)) >= 0:
                fault = _follow(tail, place)
                if fault is not None:
                    return fault
    return ""


def _follow(tail: bytes, place: int) -> str | None:
    """What the elements from ``place`` on say of the end; None where they are none."""
    count = 0
    while place < len(tail):
        width = _width(tail[place])
        id = tail[place : place + width]
        if width > LONGEST_ID:  # padding, or damage
            return "" if count >= ELEMENTS else None
        if len(id) == width and id not in KNOWN:
            return None
        data, length = _length(tail, place + width)
        if id == CLUSTER and data <= len(tail):
            length = 0  # what it holds comes next
        if length is None or data + length > len(tail):
            return "it ends in the middle of a block" if count >= ELEMENTS else None
        place = data + length
        count += 1
    return "" if count >= ELEMENTS else None


def _width(first: int) -> int:
    """Bytes of a number of variable length, by the first of them."""
    return 9 - first.bit_length()


def _length(tail: bytes, place: int) -> tuple[int, int | None]:
    """Where an element's data begins, and its bytes; None where that is cut off or not said."""
    if place >= len(tail):
        return place, None
    width = _width(tail[place])
    value = int.from_bytes(tail[place : place + width], "big") & ((1 << 7 * width) - 1)
    whole = place + width <= len(tail) and value != (1 << 7 * width) - 1
    return place + width, value if whole else None
