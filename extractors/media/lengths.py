"""How long the streams of a file are, by what it promises or by its last packets.

Seconds of the container clock; see `extractors.media.probe`.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
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
GUESS_SLACK = 1.05
WRONG_HEADER = 100  # times the length of what is there: a recorder that never wrote the length
# What a writer leaves that cannot go back to its header: in IVF, in AVI.
UNKNOWN_TICKS = (1 << 32) - 1
UNKNOWN_FRAMES = (0, 1 << 30)
DELAY_S = 1.0  # of the first frame on the file's own clock: no more than B-frames are behind it
BOX = struct.Struct(">I4s")
FIRST_BOXES = {b"ftyp", b"styp", b"moov"}
# Of the ASF Specification, 3.1 and 3.2: the header object, and the one of the file's properties.
ASF_MAGIC = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_LIVE = 1
ASF_HEADER_BYTES = 1 << 16
# Durations of these are guessed from the bit rate, often far off.
GUESSED_DURATION = {
    "aac",
    "mp3",
    "ac3",
    "eac3",
    "dts",
    "h264",
    "hevc",
    "m4v",
    "mpegvideo",
    "av1",
    "swf",
    "amr",
    "amrnb",
    "amrwb",
}


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
    name = container.format.name
    if GUESSED_DURATION & set(name.split(",")) or _is_unwritten(container, stream):
        return None
    ticks = own_ticks(container, stream)
    if ticks is not None:
        start = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)
        if name == "ogg" and stream.codec_context.codec.canonical_name == "opus":
            start = 0.0  # for Opus, libavformat gives the end in place of the length
        return _plausible(start - zero + float(ticks * stream.time_base))
    tagged = clock_text(stream.metadata.get("DURATION", ""))
    if tagged is not None:  # Matroska: the end on the file's own clock
        return _plausible(tagged - zero)
    if container.duration is None:
        return None
    end = float(Fraction(container.duration, av.time_base))
    if name == "flv":
        end = without_delay(end, zero)
    return _plausible(end - zero if "matroska" in name else end)


def own_ticks(container: Any, stream: Any) -> int | None:
    """Length in ticks that a header tells of a stream; None where it tells of the file alone."""
    if "matroska" in container.format.name:  # libavformat may hand on the length of the file
        return None
    if container.format.name == "avi":
        return _avi_ticks(stream)
    return None if stream.duration is None else int(stream.duration)


def without_delay(end: float, zero: float) -> float:
    """End of a stream in FLV and ASF, whose writers count from second 0 of the file's own clock.

    What is recorded from a broadcast may begin at any second, and counts from there.
    """
    return end - zero if 0 < zero < DELAY_S else end


def _is_unwritten(container: Any, stream: Any) -> bool:
    """Whether a header has a number in place of the length that nobody meant."""
    if container.format.name != "avi":
        return bool(stream.duration == UNKNOWN_TICKS)
    if stream.frames in UNKNOWN_FRAMES:
        return True
    found = stream.duration
    if found is None and container.duration is not None:
        found = Fraction(container.duration, av.time_base) / stream.time_base
    return found is not None and stream.frames > WRONG_HEADER * found


def _avi_ticks(stream: Any) -> int | None:
    """Length in ticks by the header of an AVI stream, where that is to be believed.

    libavformat shortens the duration of a broken-off file to what is there; the promise stands. A
    duration that is a little longer than the header says is libavformat's guess by the bit rate.
    """
    promised = int(stream.frames)
    if stream.duration is None:  # of PCM, libavformat knows how many samples there are
        return promised or None
    found = int(stream.duration)
    return found if found > GUESS_SLACK * promised else promised


@dataclass(frozen=True, slots=True)
class Fragments:
    """How far the boxes of an MP4 file follow one upon the other.

    Attributes:
        share: Share of a fragmented file that can be reached, in (0, 1]; 1 for any other file.
        broken_off: Whether a fragmented file ends before its last box does.
    """

    share: float = 1.0
    broken_off: bool = False


def look_at_fragments(path: Path, size: int) -> Fragments:
    """Follow the boxes of an MP4 file.

    The length of a fragmented one is nowhere but in its fragments, and libavformat ends in silence
    at the first place that is none. Boxes are a length and a name of printable letters each
    (ISO/IEC 14496-12, 4.2).

    Args:
        path: The file.
        size: Its bytes.
    """
    place, fragmented = 0, False
    with path.open("rb") as stream:
        while place + BOX.size <= size:
            stream.seek(place)
            length, name = BOX.unpack(stream.read(BOX.size))
            if length == 1:
                length = int.from_bytes(stream.read(8), "big")
            if place == 0 and name not in FIRST_BOXES:
                return Fragments()
            if not all(32 <= letter < 127 for letter in name):  # blanked: no box of length 0 either
                break
            if length == 0:  # to the end of the file
                return Fragments()
            if length < BOX.size:
                break
            fragmented |= name == b"moof"
            place += length
    return Fragments(min(1.0, place / size), place > size) if fragmented else Fragments()


def asf_end(path: Path) -> float | None:
    """Second at which an ASF file (WMV, WMA) ends by its header; None where that does not say.

    libavformat takes no notice of it where the file is not as long as it should be.
    """
    with path.open("rb") as stream:
        header = stream.read(ASF_HEADER_BYTES)
    place = header.find(ASF_PROPERTIES)
    if not header.startswith(ASF_MAGIC) or place < 0 or len(header) < place + 92:
        return None
    ticks, preroll, flags = struct.unpack_from("<Q8xQI", header, place + 64)
    return None if flags & ASF_LIVE else _plausible(ticks / 1e7 - preroll / 1e3)


def clock_text(text: str) -> float | None:
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
