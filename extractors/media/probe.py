"""What a media file holds, on the container clock.

The container clock is the clock of the file's presentation timestamps, in seconds, with zero at
the earliest stream start. Read with PyAV, so that no ffprobe program is needed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
from av.stream import Disposition

from extractors.media.ffmpeg import PROTOCOLS, look_further, media_url
from extractors.media.info import AudioStream, MediaInfo
from extractors.media.lengths import (
    asf_end,
    check_density,
    look_at_fragments,
    promised_end,
    scan_ends,
    without_delay,
)
from extractors.media.limits import DECODER_OPTIONS, SCAN_BYTES
from extractors.media.matroska import matroska_fault
from extractors.media.pictures import best_video, check_pixels, moving, video_stream
from extractors.media.shared_length import has_own_length, own_ends
from extractors.media.starts import (
    KNOWN_STARTS,
    believed_start,
    earlier_zero,
    first_stamps,
    on_clock,
)
from extractors.media.tails import open_end, tail_fault
from pipeline.core.errors import MediaError

OPEN_TIMEOUT_S = 60.0
LATE_OPTIONS = look_further(600.0, SCAN_BYTES)
TIMESTAMPS_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT of libavformat
# Lists of other files, names that stand for several, scripts, addresses, text drawn as pictures:
# nothing that somebody filmed. They are not even opened: what they name may be a pipe.
NOT_MEDIA = {
    *("hls", "concat", "dash", "webm_dash_manifest", "imf", "vobsub", "image2"),
    *("sdp", "rtsp", "rtp", "sap", "avisynth", "vapoursynth", "lavfi", "ffmetadata", "tty"),
}
MEDIA = ",".join(sorted(av.formats_available - NOT_MEDIA))
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
        container_options={
            "protocol_whitelist": PROTOCOLS,
            "format_whitelist": MEDIA,
            **options,
        },
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
    dark = any(not stream.width for stream in moving(container))
    return dark or any(not _is_known(stream) for stream in container.streams.audio)


def _is_known(stream: Any) -> bool:
    """Whether a stream of sound can be decoded: without a header, or a packet, it has no rate."""
    return stream.codec_context is not None and bool(stream.codec_context.sample_rate)


def _best_audio(container: Any) -> Any:
    """The sound stream that players choose: the first one with the default flag, else the first."""
    known = [stream for stream in container.streams.audio if _is_known(stream)]
    default = [stream for stream in known if stream.disposition & Disposition.default]
    return next(iter([*default, *known]), None)


def _describe(path: Path, size: int, container: Any, opened: Callable[[], Any]) -> MediaInfo:
    name = container.format.name
    video, count = best_video(container)
    check_pixels(path, container, opened, video)
    audio = _best_audio(container)
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
        and video_stream(
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
    if name == "asf":
        end = asf_end(path)
        ends = dict.fromkeys(ends, end and without_delay(end, zero))
    promises_nothing = all(end is None for end in ends.values())
    may_scan = size <= SCAN_BYTES
    if promises_nothing and may_scan:
        with opened() as again:
            ends = scan_ends(again, ends, zero)
    if "mp4" in name:
        found = look_at_fragments(path, size)
        ends = {index: end and end / found.share for index, end in ends.items()}
        return ends, "it ends in the middle of a fragment" if found.broken_off else ""
    if promises_nothing:
        return ends, matroska_fault(path) if "matroska" in name else tail_fault(path, name)
    shared = {stream.index for stream in streams if not has_own_length(container, stream)}
    ends = own_ends(opened, ends, shared=shared, zero=zero, may_scan=may_scan)
    return ends, tail_fault(path, name)


def _zero(container: Any, streams: list[Any], discontinuous: bool) -> float:
    """Timestamp in seconds that ffmpeg maps to 0.

    The earliest start of all streams; for formats whose timestamps may jump, ffmpeg counts only
    streams in use.
    """
    starts = [float(s.start_time * s.time_base) for s in streams if s.start_time is not None]
    if container.start_time is not None and not (discontinuous and starts):
        return float(Fraction(container.start_time, av.time_base))
    return min(starts, default=0.0)


def _audio_stream(stream: Any, zero: float, declared: int | None, end: float | None) -> AudioStream:
    start = 0.0
    if declared is not None:
        start = on_clock(declared, stream.time_base, zero)
    return AudioStream(
        index=stream.index,
        start=start,
        duration=None if end is None else max(0.0, end - start),
        sample_rate=stream.codec_context.sample_rate,
        channels=stream.codec_context.channels,
        codec=stream.codec_context.codec.canonical_name,
    )
