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
from pipeline.core.cores import core_limit
from pipeline.core.errors import EnvironmentFault

VERSION_TIMEOUT_S = 30.0
INPUT = "{input}"  # stands for the file in a command under construction
PACKET_S = 0.01  # of sound: what is lost at most where ffmpeg begins anew, see `_onward`
LOG_LEVEL = "repeat+level+info"
BELIEVED_STEP_S = 9.0  # less than the 10 s from which on ffmpeg does not believe a timestamp
SEEN_S = 4.0  # of MPEG-TS, MPEG-PS and Ogg, that libavformat looks at in any case
SINGLE_S = 0.1  # a picture stream that is shorter may hold no more than one
SEEN_BYTES = 5_000_000
PROTOCOLS = "file,pipe"  # a playlist dressed as a video must not make ffmpeg reach for the network


def media_url(path: str | os.PathLike[str]) -> str:
    """Name of a file that no media library mistakes for an option, a pattern or a protocol."""
    return "file:" + str(Path(path).absolute())


@functools.cache
def ffmpeg_binary() -> str:
    """Path of an ffmpeg that can be trusted: the one on the PATH, else that of imageio-ffmpeg.

    Versions up to 4.4 are passed over: where a stream changes its form midway they lose the clock,
    see `_onward`.

    Raises:
        EnvironmentFault: There is none, none that starts, or only such old ones.
    """
    faults = []
    for candidate in (shutil.which("ffmpeg"), _bundled_binary()):
        if candidate is None:
            continue
        version = ffmpeg_version(candidate)
        if version and _drops_by_time(candidate):
            return candidate
        faults.append(
            f"{candidate} is of version {version}, and 5.0 is needed at least"
            if version
            else f"{candidate} does not start"
        )
    raise EnvironmentFault(
        f"no ffmpeg can be used: {'; '.join(faults) or 'none is on the PATH, none bundled'}",
        hint="install ffmpeg with your system's package manager, or: pip install imageio-ffmpeg",
    )


def _bundled_binary() -> str | None:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # a wheel for a platform without a binary
        return None


def ffmpeg_environment() -> dict[str, str]:
    """The environment in which ffmpeg is to run.

    Statically linked ones load the system's tables of characters to read the name of a station in
    MPEG-TS, and crash where those are of another C library: they are told that there are none.
    """
    return {**os.environ, "GCONV_PATH": os.devnull}


@functools.cache
def ffmpeg_version(binary: str) -> str:
    """Version that ``binary`` gives itself, such as ``5.1.9`` or ``n9.0.2-17-g2a571b6068``.

    Returns:
        The version, or "" when the program does not start.
    """
    found = re.match(r"ffmpeg version (\S+)", _answer(binary, "-version"))
    return found[1] if found else ""


@functools.cache
def _drops_by_time(binary: str) -> bool:
    """Whether the bitstream filter that `_onward` needs takes an expression there.

    Asked of the program itself, as development builds have no number: 4.1, 4.2.2 and 4.4 drop at
    random only; 5.1.9, 6.0, 7.0.2, 7.1, 8.0 and 9.0.2 know the option.
    """
    return re.search(r"^ *-drop\s", _answer(binary, "-h", "bsf=noise"), re.MULTILINE) is not None


def _answer(binary: str, *arguments: str) -> str:
    """What a program says to a question; "" where it does not start, or fails."""
    try:
        done = subprocess.run(
            [binary, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=VERSION_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _is_older(binary: str, major: int, minor: int) -> bool:
    """Whether ``binary`` is of an earlier version; one that has no number counts as the newest."""
    found = re.match(r"n?(\d+)\.(\d+)", ffmpeg_version(binary))
    return found is not None and (int(found[1]), int(found[2])) < (major, minor)


def passthrough(binary: str) -> tuple[str, str]:
    """The option that keeps ``binary`` from adding or dropping frames after the filters."""
    is_old = _is_older(binary, 5, 1)
    return ("-vsync", "0") if is_old else ("-fps_mode", "passthrough")


def silent_fault() -> EnvironmentFault:
    """The error for an ffmpeg that does not print the seconds of its frames as it was asked to."""
    binary = ffmpeg_binary()
    return EnvironmentFault(
        f"{binary} of version {ffmpeg_version(binary)} does not tell the times of its frames, "
        "so that holes in a file would not be seen",
        hint="take it from the PATH: the ffmpeg of imageio-ffmpeg is used then",
    )


def look_further(seconds: float, size: int) -> dict[str, str]:
    """Options with which libavformat waits longer for the streams of a file.

    Args:
        seconds: Of the file that may be looked at.
        size: Bytes of it that may be.
    """
    return {"analyzeduration": f"{seconds * 1e6:.0f}", "probesize": str(max(SEEN_BYTES, size))}


def time_limit(info: MediaInfo) -> float | None:
    """Second at which to stop decoding whatever comes; None where the file promises no end.

    A single wild timestamp would otherwise be filled up to with days of repeated frames. Headers
    err, so the limit leaves room: as much again, and at least a minute.
    """
    return None if info.duration is None else info.duration + max(60.0, info.duration)


def picture_command(
    info: MediaInfo,
    *,
    fps: Fraction,
    size: tuple[int, int],
    threads: int,
    step: float | None = None,
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
        step: See `extractors.media.jumps.Clock`.
    """
    assert info.video is not None
    source = _source(info, threads, max_pixels=MAX_PIXELS)
    frames = (
        source[str(info.video.index)]
        .filter(*_announcing("", "print({t})"))
        .filter("fps", f"{fps.numerator}/{fps.denominator}", round="up", start_time=0)
        .filter("scale", *size, flags="bilinear")
    )
    option, value = passthrough(ffmpeg_binary())
    options = {"format": "rawvideo", "pix_fmt": "rgb24", option[1:]: value, **_onward("v")}
    outputs = [frames.output("pipe:1", **options, **_stop(info))]
    outputs += _companion(source, info.audio if info.discontinuous else None)
    return _compile(info, outputs, step)


def sound_command(
    info: MediaInfo, *, sample_rate: int, threads: int, step: float | None = None
) -> list[str]:
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
        step: See `extractors.media.jumps.Clock`.
    """
    assert info.audio is not None
    source = _source(info, threads)
    follow = {"async": 1, "min_hard_comp": 0.01, "first_pts": 0}
    sound = (
        source[str(info.audio.index)]
        .filter(*_announcing("a", "print({t})*print({n}/{rate})"))
        .filter("aresample", sample_rate, rematrix_maxval=1, **follow, **KAISER_BEST)
        .filter("asetnsamples", max(1, round(sample_rate * PACKET_S)), p=0)
    )
    options = {"format": "f32le", "acodec": "pcm_f32le", "ac": 1, "ar": sample_rate, **_onward("a")}
    outputs = [sound.output("pipe:1", **options, **_stop(info))]
    outputs += _companion(source, info.video if info.discontinuous else None)
    return _compile(info, outputs, step)


def steps_command(info: MediaInfo) -> list[str]:
    """Command that prints where the timestamps of a stream step by more than `BELIEVED_STEP_S`.

    For each such place four numbers, each on a line of standard error: the stream, the packet's
    number, the timestamp before it and its own in seconds. No packet goes further than to the
    bitstream filter that prints; ``ld(0)`` is the timestamp before, ``ld(1)`` whether there is one.
    """
    options = {"copyts": None, **_patience(info)}
    source = ffmpeg.input(INPUT, protocol_whitelist=PROTOCOLS, **options)
    streams = {"v": info.video, "a": info.audio}
    known = {letter: stream.index for letter, stream in streams.items() if stream is not None}
    far = f"ld(1)*gt(abs(dts-ld(0))*tb,{BELIEVED_STEP_S})"
    filters = {}
    for letter, index in known.items():
        tell = f"print({index})*print(n)*print(ld(0)*tb)*print(dts*tb)"
        look = f"if(eq(dts,nopts),0,if({far},{tell},0)+st(0,dts)+st(1,1))"
        filters[f"bsf:{letter}"] = f"noise=amount=0:drop='1+0*{look}'"
    chosen = [source[str(index)] for index in known.values()]
    return _compile(info, [ffmpeg.output(*chosen, "-", format="null", codec="copy", **filters)])


def _source(info: MediaInfo, threads: int, **others: object) -> ffmpeg.nodes.InputNode:
    """The file, its timestamps moved so that zero is the container clock's.

    Which start a version of ffmpeg would subtract is not left to it: versions differ (7.0 counts
    the priming samples of Matroska sound, 8 does not). Where timestamps may jump, it must repair
    them, and cannot while they are copied: see `_companion`.
    """
    # Left alone, ffmpeg counts the cores of the machine, and not those of its container.
    threads = threads or core_limit() or 0
    options = {**others, "threads": threads} if threads else others
    options |= _patience(info)
    if not info.discontinuous:
        options |= {"copyts": None, "itsoffset": f"{-info.clock_offset:.6f}"}
    return ffmpeg.input(INPUT, protocol_whitelist=PROTOCOLS, **options)


def _patience(info: MediaInfo) -> dict[str, str]:
    """Options for a file in which a stream begins late, whose form no header tells before.

    That of a single picture is told by the end of the file.
    """
    late = max(stream.start for stream in (info.video, info.audio) if stream is not None)
    video = info.video
    if video is not None and video.duration is not None and video.duration < SINGLE_S:
        late = max(late, info.duration or 0.0)
    if not info.discontinuous or late <= SEEN_S:
        return {}
    return look_further(late + SEEN_S, info.size_bytes)


def _announcing(kind: str, values: str) -> tuple[str, str]:
    """A filter that lets frames pass as they are and prints ``values`` of each.

    ``setpts`` evaluates its expression once more when there are no more frames, from 5.1 to 6.0
    for a second in wrong units. ``select`` does not, but in 8.0 the one for sound evaluates
    nothing at all. So each is taken where it has proved right.

    Args:
        kind: "" for pictures, "a" for sound.
        values: Expression in which ``{t}``, ``{n}`` and ``{rate}`` stand for the frame's second,
            its samples, and how many there are in a second.
    """
    if _is_older(ffmpeg_binary(), 8, 0):
        found = values.format(t="t", n="samples_n", rate="sample_rate")
        return f"{kind}select", f"if(gte({found},0),1,1)"
    found = values.format(t="T", n="NB_SAMPLES", rate="SR")
    return f"{kind}setpts", f"if(gte({found},0),PTS,PTS)"


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


def _compile(
    info: MediaInfo, outputs: list[ffmpeg.nodes.OutputStream], step: float | None = None
) -> list[str]:
    node = ffmpeg.merge_outputs(*outputs) if len(outputs) > 1 else outputs[0]
    if step is not None:
        node = node.global_args("-dts_delta_threshold", f"{step:.3f}")
    # Printed values are of the level info. Equal lines must not be counted instead of written.
    node = node.global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", LOG_LEVEL)
    command: list[str] = ffmpeg.compile(node, cmd=ffmpeg_binary())
    # ffmpeg-python hashes names as UTF-8, which a file's name need not be.
    return [media_url(info.path) if argument == INPUT else argument for argument in command]
