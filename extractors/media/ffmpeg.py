"""The ffmpeg program: where it is, and the command lines that read picture and sound with it."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import ffmpeg

from extractors.media.info import AudioStream, MediaInfo, VideoStream
from extractors.media.limits import MAX_PIXELS
from extractors.media.resampling import KAISER_BEST
from pipeline.core.errors import EnvironmentFault

VERSION_TIMEOUT_S = 30.0
INPUT = "{input}"  # stands for the file in a command under construction
PACKET_S = 0.01  # of sound: what is lost at most where ffmpeg begins anew, see `_onward`
LOG_LEVEL = "repeat+level+info"
PROTOCOLS = "file,pipe"  # a playlist dressed as a video must not make ffmpeg reach for the network


def media_url(path: str | os.PathLike[str]) -> str:
    """Name of a file that no media library mistakes for an option, a pattern or a protocol."""
    return "file:" + str(Path(path).absolute())


@functools.cache
def ffmpeg_binary() -> str:
    """Path of a working ffmpeg: the one on the PATH, else the one of the imageio-ffmpeg wheel.

    Raises:
        EnvironmentFault: There is none, or none that starts.
    """
    tried = []
    for candidate in (shutil.which("ffmpeg"), _bundled_binary()):
        if candidate is None:
            continue
        if ffmpeg_version(candidate):
            return candidate
        tried.append(candidate)
    found = f"does not start: {', '.join(tried)}" if tried else "is neither on the PATH nor bundled"
    raise EnvironmentFault(
        f"the program ffmpeg {found}",
        hint="install ffmpeg with your system's package manager, or: pip install imageio-ffmpeg",
    )


def _bundled_binary() -> str | None:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # a wheel for a platform without a binary
        return None


@functools.cache
def ffmpeg_version(binary: str) -> str:
    """Version that ``binary`` gives itself, such as ``5.1.9`` or ``n9.0.2-17-g2a571b6068``.

    Returns:
        The version, or "" when the program does not start.
    """
    try:
        answer = subprocess.run(
            [binary, "-version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=VERSION_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.match(r"ffmpeg version (\S+)", answer.stdout.decode("utf-8", "replace"))
    return found[1] if found else ""


def _is_older(binary: str, major: int, minor: int) -> bool:
    """Whether ``binary`` is of an earlier version; one that has no number counts as the newest."""
    found = re.match(r"n?(\d+)\.(\d+)", ffmpeg_version(binary))
    return found is not None and (int(found[1]), int(found[2])) < (major, minor)


def passthrough(binary: str) -> tuple[str, str]:
    """The option that keeps ``binary`` from adding or dropping frames after the filters."""
    is_old = _is_older(binary, 5, 1)
    return ("-vsync", "0") if is_old else ("-fps_mode", "passthrough")


def time_limit(info: MediaInfo) -> float | None:
    """Second at which to stop decoding whatever comes; None where the file promises no end.

    A single wild timestamp would otherwise be filled up to with days of repeated frames. Headers
    err, so the limit leaves room: as much again, and at least a minute.
    """
    return None if info.duration is None else info.duration + max(60.0, info.duration)


def picture_command(
    info: MediaInfo, *, fps: Fraction, size: tuple[int, int], threads: int
) -> list[str]:
    """Command that writes raw rgb24 frames on the grid j / ``fps`` from second 0 on.

    ``fps=F:round=up:start_time=0`` puts the frame that is on screen at j / F into place j, as a
    look-up by timestamp does; ffmpeg's default rounding is up to half a period late. Bilinear is
    the scaler that decord uses: with it both readers give the same pixels. Each decoded frame's
    second goes to standard error, for `extractors.media.gaps`.

    Args:
        info: The file; it has a picture stream.
        fps: Samples per second.
        size: Width and height to scale to.
        threads: Decoder threads; 0 lets ffmpeg choose.
    """
    assert info.video is not None
    source = _source(info, threads, max_pixels=MAX_PIXELS)
    frames = (
        source[str(info.video.index)]
        .filter("setpts", _announcing("print(T)"))
        .filter("fps", f"{fps.numerator}/{fps.denominator}", round="up", start_time=0)
        .filter("scale", *size, flags="bilinear")
    )
    option, value = passthrough(ffmpeg_binary())
    options = {"format": "rawvideo", "pix_fmt": "rgb24", option[1:]: value, **_onward("v")}
    outputs = [frames.output("pipe:1", **options, **_stop(info))]
    return _compile(info, outputs + _companion(source, info.audio if info.discontinuous else None))


def sound_command(info: MediaInfo, *, sample_rate: int, threads: int) -> list[str]:
    """Command that writes mono float32 samples, sample n being second n / ``sample_rate``.

    ``aresample`` follows the timestamps: ``first_pts=0`` pads or trims the front, ``async=1`` with
    ``min_hard_comp=0.01`` fills and trims gaps of 10 ms and more and never stretches the sound.
    ``rematrix_maxval=1`` makes mono the mean of both channels of stereo; without it ffmpeg's float
    mixing is 3 dB too loud, 11 dB for 5.1. Rates are changed by the filter of
    `extractors.media.resampling`. Each decoded frame's second and length go to standard error, for
    `extractors.media.gaps`.

    Args:
        info: The file; it has an audio stream.
        sample_rate: Samples per second.
        threads: Decoder threads; 0 lets ffmpeg choose.
    """
    assert info.audio is not None
    source = _source(info, threads)
    follow = {"async": 1, "min_hard_comp": 0.01, "first_pts": 0}
    sound = (
        source[str(info.audio.index)]
        .filter("asetpts", _announcing("print(T)*print(NB_SAMPLES/SR)"))
        .filter("aresample", sample_rate, rematrix_maxval=1, **follow, **KAISER_BEST)
        .filter("asetnsamples", max(1, round(sample_rate * PACKET_S)), p=0)
    )
    options = {"format": "f32le", "acodec": "pcm_f32le", "ac": 1, "ar": sample_rate, **_onward("a")}
    outputs = [sound.output("pipe:1", **options, **_stop(info))]
    return _compile(info, outputs + _companion(source, info.video if info.discontinuous else None))


def _source(info: MediaInfo, threads: int, **others: object) -> ffmpeg.nodes.InputNode:
    """The file, its timestamps moved so that zero is the container clock's.

    Which start a version of ffmpeg would subtract is not left to it: versions differ (7.0 counts
    the priming samples of Matroska sound, 8 does not). Where timestamps may jump, it must repair
    them, and cannot while they are copied: see `_companion`.
    """
    options = {**others, "threads": threads} if threads else others
    if not info.discontinuous:
        options |= {"copyts": None, "itsoffset": f"{-info.clock_offset:.6f}"}
    return ffmpeg.input(INPUT, protocol_whitelist=PROTOCOLS, **options)


def _announcing(values: str) -> str:
    """Timestamps as they are, by an expression that prints ``values`` on the way."""
    return f"if(gte({values},0),PTS,PTS)"


def _onward(stream: str) -> dict[str, str]:
    """The option that keeps the pipe on the container clock where a stream changes its form.

    Where the number of channels, the rate or the size of the picture changes midway, in a broadcast
    or by damage, ffmpeg builds its filters anew. These begin at second 0 again and put silence or
    a repeated frame in front, which a pipe of raw data would get after all that came before. So
    packets of seconds that have been written are dropped: ``ld(0)`` is the first timestamp that
    has not. All packets but the last are of one length and begin at a multiple of it, so the pipe
    goes on at the very sample.

    Args:
        stream: ``a`` or ``v``.
    """
    if _is_older(ffmpeg_binary(), 5, 0):  # there, the filter drops at random only
        return {}
    return {f"bsf:{stream}": "noise=amount=0:drop='if(lt(pts,ld(0)),1,0*st(0,pts+1))'"}


def _stop(info: MediaInfo) -> dict[str, str]:
    limit = time_limit(info)
    return {} if limit is None else {"t": f"{limit:.6f}"}


def _companion(
    source: ffmpeg.nodes.InputNode, stream: VideoStream | AudioStream | None
) -> list[ffmpeg.nodes.OutputStream]:
    """An output that decodes nothing but keeps the other stream in play.

    For formats whose timestamps may jump (MPEG-TS, MPEG-PS, Ogg), ffmpeg takes the earliest
    start of the streams in use for zero, and repairs jumps by what it sees of them. Read alone,
    a stream that starts 2 s late would start at 0: picture and sound would lose each other.
    """
    if stream is None:
        return []
    return [source[str(stream.index)].output("-", format="null", codec="copy")]


def _compile(info: MediaInfo, outputs: list[ffmpeg.nodes.OutputStream]) -> list[str]:
    node = ffmpeg.merge_outputs(*outputs) if len(outputs) > 1 else outputs[0]
    # Printed values are of the level info. Equal lines must not be counted instead of written.
    node = node.global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", LOG_LEVEL)
    command: list[str] = ffmpeg.compile(node, cmd=ffmpeg_binary())
    # ffmpeg-python hashes names as UTF-8, which a file's name need not be.
    return [media_url(info.path) if argument == INPUT else argument for argument in command]
