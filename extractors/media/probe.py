"""What a media file holds, on the container clock.

The container clock is the clock of the file's presentation timestamps, in seconds, with zero at
the earliest stream start. Read with PyAV, so that no ffprobe program is needed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from extractors.media.ffmpeg import PROTOCOLS, look_further, media_url
from extractors.media.info import AudioStream, MediaInfo, VideoStream
from extractors.media.lengths import (
    asf_end,
    check_density,
    look_at_fragments,
    packets,
    promised_end,
    scan_ends,
)
from extractors.media.limits import MAX_PIXELS
from extractors.media.matroska import matroska_fault
from extractors.media.shared_length import has_own_length, own_ends
from extractors.media.starts import KNOWN_STARTS, believed_start, earlier_zero, first_stamps
from extractors.media.tails import open_end, tail_fault
from extractors.windows import CLOCK_RESOLUTION_S
from pipeline.core.errors import MediaError

OPEN_TIMEOUT_S = 60.0
HEAD_PACKETS = 300  # packets of a picture stream that are looked at
HEAD_BYTES = 64 << 20
SCAN_BYTES = 256 << 20  # a larger file without a duration is not read twice
LATE_OPTIONS = look_further(600.0, SCAN_BYTES)
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
TIMESTAMPS_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT of libavformat
# Lists of other files, and text drawn as pictures: nothing that somebody filmed.
NOT_MEDIA = {"hls", "concat", "dash", "ffmetadata", "tty", "lavfi"}
CONTENTS = {"video": "a picture", "audio": "a stretch of sound"}  # that a file may end within


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """Look at a media file.

    Decodes at most one frame and reads some hundred packets; only a file of less than 256 MB that
    does not say how long it is gets read (not decoded) to its end.

    Raises:
        MediaError: The file is missing, empty, unreadable, no media file, or holds neither picture
            nor sound.
    """
    path = Path(path)
    size = _check_file(path)
    try:
        with _opened(path) as container:
            if not _is_late(container):
                return _describe(path, size, container, partial(_opened, path))
        patiently = partial(_opened, path, LATE_OPTIONS)
        with patiently() as container:
            return _describe(path, size, container, patiently)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def _check_file(path: Path) -> int:
    """Size of a file that can be read; errors that libav words badly."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(path, "is a folder, not a media file", hint="name the files in it")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(path, "is a pipe or a device, not a file", hint="save it to a file")
        if status.st_size == 0:
            raise MediaError(path, "is empty (0 bytes)", hint="copy or download it again")
        with path.open("rb"):
            return status.st_size
    except FileNotFoundError as error:
        raise MediaError(path, "does not exist", hint="check the spelling of the path") from error
    except PermissionError as error:
        raise MediaError(
            path, "cannot be read: permission denied", hint="give yourself read permission"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(path, f"cannot be read: {error}") from error


def _opened(path: Path, options: Mapping[str, str] = MappingProxyType({})) -> Any:
    return av.open(
        media_url(path),
        metadata_errors="replace",
        timeout=OPEN_TIMEOUT_S,
        # Already looking for the streams decodes frames: of what codecs, the file decides.
        options=DECODER_OPTIONS,
        container_options={"protocol_whitelist": PROTOCOLS, **options},
    )


def _unreadable(path: Path, error: av.FFmpegError) -> MediaError:
    with path.open("rb") as stream:
        is_mp4 = stream.read(12)[4:8] == b"ftyp"
    if is_mp4:  # starts as MP4 files do; their index comes last
        return MediaError(
            path,
            "has no index: its recording, copy or download was broken off",
            hint="copy or download it again",
        )
    return MediaError(
        path,
        f"is not a media file that can be read: {(error.strerror or str(error)).lower()}",
        hint="play it in a media player; if that fails too, it is damaged or something else",
    )


def _is_late(container: Any) -> bool:
    """Whether nothing was seen yet of a stream that is announced (MPEG-TS, MPEG-PS)."""
    if not container.format.flags & TIMESTAMPS_MAY_JUMP:
        return False
    dark = any(not stream.width for stream in _moving(container))
    return dark or any(not _is_known(stream) for stream in container.streams.audio)


def _is_known(stream: Any) -> bool:
    """Whether a stream of sound can be decoded: without a header, or a packet, it has no rate."""
    return stream.codec_context is not None and bool(stream.codec_context.sample_rate)


def _describe(path: Path, size: int, container: Any, opened: Callable[[], Any]) -> MediaInfo:
    name = container.format.name
    video, count = _best_video(container)
    _check_pixels(path, container, video)
    audio = next(filter(_is_known, container.streams.audio), None)
    if NOT_MEDIA & set(name.split(",")) or (video is None and audio is None):
        raise MediaError(
            path,
            f"holds neither picture nor sound (format {name})",
            hint="give a video or audio file",
        )
    discontinuous = bool(container.format.flags & TIMESTAMPS_MAY_JUMP)
    streams = [stream for stream in (video, audio) if stream is not None]
    stamps = _first_stamps(opened, name, streams)
    zero = _zero(container, streams, discontinuous)
    if not discontinuous:  # else ffmpeg decides; libavformat may have seen the later stream alone
        zero = earlier_zero(zero, stamps)
    ends, fault = _ends(path, size, container, opened, streams, zero)
    known = [end for end in ends.values() if end is not None]
    duration = max(known, default=None)
    check_density(path, size, duration)
    last = None if duration is None else zero + duration
    starts = {s.index: believed_start(s, stamps.get(s.index, []), end=last) for s in streams}
    contents = {stream.id: CONTENTS[stream.type] for stream in streams}
    return MediaInfo(
        path=path,
        container=name,
        size_bytes=size,
        duration=duration,
        clock_offset=zero,
        video=video
        and _video_stream(
            container, video, zero, starts[video.index], ends[video.index], alone=count == 1
        ),
        audio=audio and _audio_stream(audio, zero, starts[audio.index], ends[audio.index]),
        discontinuous=discontinuous,
        broken_off=fault,
        open_end="" if fault else open_end(path, name, contents),
    )


def _first_stamps(
    opened: Callable[[], Any], name: str, streams: list[Any]
) -> dict[int, list[float]]:
    """Timestamps with which streams begin, where libavformat may have missed the later one."""
    if len(streams) < 2 or KNOWN_STARTS & set(name.split(",")):
        return {}
    with opened() as again:
        return first_stamps(again, [stream.index for stream in streams], within=SCAN_BYTES)


def _ends(
    path: Path,
    size: int,
    container: Any,
    opened: Callable[[], Any],
    streams: list[Any],
    zero: float,
) -> tuple[dict[int, float | None], str]:
    """Where the streams should end, and what shows that the file's own end is missing."""
    name = container.format.name
    ends = {stream.index: promised_end(container, stream, zero) for stream in streams}
    promises_nothing = all(end is None for end in ends.values())
    if promises_nothing and size <= SCAN_BYTES:
        with opened() as again:
            ends = scan_ends(again, ends, zero)
    if "mp4" in name:
        found = look_at_fragments(path, size)
        ends = {index: end and end / found.share for index, end in ends.items()}
        return ends, "it ends in the middle of a fragment" if found.broken_off else ""
    if name == "asf" and (end := asf_end(path)) is not None:
        ends = dict.fromkeys(ends, end)
    if promises_nothing:
        return ends, matroska_fault(path) if "matroska" in name else tail_fault(path, name)
    shared = {stream.index for stream in streams if not has_own_length(container, stream)}
    ends = own_ends(opened, ends, shared=shared, zero=zero, may_scan=size <= SCAN_BYTES)
    return ends, tail_fault(path, name)


def _moving(container: Any) -> list[Any]:
    """Picture streams that are no cover art."""
    streams = list(container.streams.video)
    moving = [s for s in streams if not s.disposition & Disposition.attached_pic]
    return [s for s in moving if s.codec_context is not None]


def _check_pixels(path: Path, container: Any, best: Any) -> None:
    """Refuse pictures that are bombs; a picture that libav refuses has no size."""
    if best is None and _moving(container):
        raise MediaError(
            path,
            f"its picture has no size that can be read, or more than {MAX_PIXELS:,} pixels",
            hint="play it in a media player; if that works, convert it to a smaller picture",
        )
    if best is not None and best.width * best.height > MAX_PIXELS:
        raise MediaError(
            path,
            f"its picture of {best.width}x{best.height} has more than {MAX_PIXELS:,} pixels",
            hint="convert it to a smaller one",
        )


def _best_video(container: Any) -> tuple[Any, int]:
    """The picture stream that players choose (default flag, then area), and how many there are."""
    streams = list(container.streams.video)
    best = max(
        [s for s in _moving(container) if s.width and s.height],
        key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index),
        default=None,
    )
    return best, len(streams)


def _zero(container: Any, streams: list[Any], discontinuous: bool) -> float:
    """Timestamp in seconds that ffmpeg maps to 0.

    The earliest start of all streams; for formats whose timestamps may jump, ffmpeg counts only
    streams in use.
    """
    starts = [float(s.start_time * s.time_base) for s in streams if s.start_time is not None]
    if container.start_time is not None and not (discontinuous and starts):
        return float(Fraction(container.start_time, av.time_base))
    return min(starts, default=0.0)


def _on_clock(stamp: int, time_base: Fraction, zero: float) -> float:
    """Second of the container clock; what lies within its resolution of zero is zero."""
    second = float(stamp * time_base) - zero
    return 0.0 if second < CLOCK_RESOLUTION_S else second


@dataclass(slots=True)
class _Head:
    """The beginning of a picture stream: sorted timestamps, hidden packets, the first frame."""

    stamps: list[int]
    hidden: bool
    frame: Any


def _read_head(container: Any, stream: Any) -> _Head:
    head = _Head(stamps=[], hidden=False, frame=None)
    total = 0
    if stream.codec_context is not None:
        stream.codec_context.thread_count = 1  # with more, the first frame comes late
        stream.codec_context.options = DECODER_OPTIONS
    for number, packet in enumerate(packets(container, [stream])):
        stamp = packet.dts if packet.pts is None else packet.pts
        head.hidden |= bool(packet.is_discard)
        if stamp is not None and not packet.is_discard:
            head.stamps.append(stamp)
        if head.frame is None:
            with contextlib.suppress(av.FFmpegError):  # a damaged packet; the next may do
                head.frame = next(iter(packet.decode()), None)
        total += packet.size
        if number + 1 >= HEAD_PACKETS or total > HEAD_BYTES:
            break
    if head.frame is None:
        with contextlib.suppress(av.FFmpegError):
            head.frame = next(iter(stream.codec_context.decode(None)), None)
    head.stamps.sort()
    return head


def _video_stream(
    container: Any,
    stream: Any,
    zero: float,
    declared: int | None,
    end: float | None,
    *,
    alone: bool,
) -> VideoStream:
    head = _read_head(container, stream)
    rate = stream.average_rate or stream.base_rate or stream.guessed_rate or Fraction(25)
    first = _shown_at(container, head.frame)
    if first is None:
        first = declared
    if first is None:
        first = head.stamps[0] if head.stamps else 0
    if declared is not None:
        first = max(first, declared)
    start = _on_clock(first, stream.time_base, zero if declared is not None else 0.0)
    turn = 0 if head.frame is None else round(head.frame.rotation / 90) * 90 % 360
    aspect = stream.sample_aspect_ratio or Fraction(1)
    shown = (max(1, round(stream.width * aspect)), stream.height)
    width, height = shown[::-1] if turn in (90, 270) else shown
    return VideoStream(
        index=stream.index,
        start=start,
        duration=None if end is None else max(0.0, end - start),
        rate=Fraction(rate),
        variable_rate=_is_variable(stream, head.stamps),
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation=turn,
        time_base=Fraction(stream.time_base),
        plain=alone and not head.hidden and declared is not None and first == declared,
    )


def _shown_at(container: Any, frame: Any) -> int | None:
    """Tick at which the first frame is shown; None where there is none, or nobody knows.

    AVI stores no presentation times, and libavformat guesses wrong ones where frames are reordered.
    ffmpeg then goes by the decoding time at which the frame comes out of the decoder.
    """
    if frame is None:
        return None
    stamp = frame.dts if container.format.name == "avi" and frame.dts is not None else frame.pts
    return None if stamp is None else int(stamp)


def _is_variable(stream: Any, stamps: list[int]) -> bool:
    """Whether frames last differently long, by the header's two rates and the first packets."""
    average, base = stream.average_rate, stream.base_rate
    if average and base and abs(average / base - 1) > 0.02 and (stream.frames or HEAD_PACKETS) > 2:
        return True
    # The last of them may still miss frames that are stored later (B-frames).
    gaps = np.diff(np.asarray(stamps[: max(0, len(stamps) - 16)], dtype=np.float64))
    if gaps.size < 2:
        return False
    seconds = gaps * float(stream.time_base)
    usual = float(np.median(seconds))
    tolerance = 0.1 * usual + 0.0011  # Matroska rounds to milliseconds
    odd = seconds[np.abs(seconds - usual) > tolerance]
    # MPEG-PS need not stamp every packet, and libavformat may guess one frame onto its neighbour.
    guessed = odd.size == 2 and np.allclose(np.sort(odd), [0.0, 2 * usual], atol=tolerance)
    return odd.size > 0 and not guessed


def _audio_stream(stream: Any, zero: float, declared: int | None, end: float | None) -> AudioStream:
    start = 0.0
    if declared is not None:
        start = _on_clock(declared, stream.time_base, zero)
    return AudioStream(
        index=stream.index,
        start=start,
        duration=None if end is None else max(0.0, end - start),
        sample_rate=stream.codec_context.sample_rate,
        channels=stream.codec_context.channels,
        codec=stream.codec_context.codec.canonical_name,
    )
