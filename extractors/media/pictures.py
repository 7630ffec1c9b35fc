"""The picture stream of a file: which one it is, what its header and its first packets say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition

from extractors.media.info import VideoStream
from extractors.media.lengths import packets
from extractors.media.limits import DECODER_OPTIONS, MAX_PIXELS, SCAN_BYTES
from extractors.media.starts import on_clock
from pipeline.core.errors import MediaError

HEAD_PACKETS = 300  # packets of a picture stream that are looked at
HEAD_BYTES = 64 << 20
FASTEST = 1000  # frames a second; for DV, libavformat gives the ticks of its clock
USUAL_RATE = Fraction(25)


def moving(container: Any) -> list[Any]:
    """Picture streams that are no cover art."""
    streams = [s for s in container.streams.video if s.codec_context is not None]
    return [s for s in streams if not s.disposition & Disposition.attached_pic]


def check_pixels(path: Path, container: Any, opened: Callable[[], Any], best: Any) -> None:
    """Refuse pictures that are bombs; a picture that libav refuses has no size.

    Args:
        path: The file.
        container: The file, opened.
        opened: Opens it once more.
        best: The picture stream in use; None where none has a size.

    Raises:
        MediaError: No picture stream has a size, though pictures come, or the one in use has too
            many pixels.
    """
    if best is None and _comes(opened, {stream.index for stream in moving(container)}):
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


def _comes(opened: Callable[[], Any], streams: set[int]) -> bool:
    """Whether a file holds a packet of these streams: a broadcast may announce one and send none.

    Looks at no more than its first 256 MB.
    """
    if not streams:
        return False
    total = 0
    with opened() as container:
        for packet in packets(container, list(container.streams)):
            total += packet.size
            if packet.stream_index in streams or total > SCAN_BYTES:
                return packet.stream_index in streams
    return False


def best_video(container: Any) -> tuple[Any, int]:
    """The picture stream that players choose, and how many there are.

    That is the one with the default flag, then one of more than a single frame (AVIF has a poster),
    then the largest.
    """

    def rank(stream: Any) -> tuple[bool, bool, int, int]:
        is_default = bool(stream.disposition & Disposition.default)
        return is_default, stream.frames != 1, stream.width * stream.height, -stream.index

    known = [stream for stream in moving(container) if stream.width and stream.height]
    return max(known, key=rank, default=None), len(container.streams.video)


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


def video_stream(
    container: Any,
    stream: Any,
    zero: float,
    declared: int | None,
    end: float | None,
    *,
    alone: bool,
) -> VideoStream:
    """What is known of a picture stream; decodes one frame of it.

    Args:
        container: The file, opened.
        stream: The stream in it.
        zero: Timestamp in seconds that the container clock calls zero.
        declared: Tick at which the stream starts; None where the file knows no timestamps.
        end: Second at which it ends, by its promise.
        alone: Whether the file has no other picture stream, cover art included.
    """
    head = _read_head(container, stream)
    first = _shown_at(container, head.frame)
    if first is None:
        first = declared
    if first is None:
        first = head.stamps[0] if head.stamps else 0
    if declared is not None:
        first = max(first, declared)
    start = on_clock(first, stream.time_base, zero if declared is not None else 0.0)
    if (
        container.start_time is None
    ):  # nothing has a time: libavformat counts from a decoder's delay
        start = 0.0
    turn, upright = _turn(head.frame)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    shown = (max(1, round(stream.width * aspect)), stream.height)
    width, height = shown[::-1] if turn in (90, 270) else shown
    return VideoStream(
        index=stream.index,
        start=start,
        duration=None if end is None else max(0.0, end - start),
        rate=_rate(stream),
        variable_rate=_is_variable(stream, head.stamps),
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation=turn,
        time_base=Fraction(stream.time_base),
        plain=alone and upright and not head.hidden and declared is not None and first == declared,
    )


def _turn(frame: Any) -> tuple[int, bool]:
    """Degrees counter-clockwise by which players turn a frame, and whether they do no more.

    A display matrix may also mirror the picture, as selfie cameras do, or slant it. Its first five
    numbers are a, b, u, c, d; turned by quarters, either b and c are 0 and the others of one sign,
    or a and d are 0 and the others of opposite signs (ISO/IEC 14496-12, 6.2.2).
    """
    if frame is None:
        return 0, True
    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV has no name for some data that cameras put beside a frame (EXIF)
        return round(frame.rotation / 90) * 90 % 360, False
    if matrix is None:
        return 0, True
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if b == c == 0:
        return (0 if a >= 0 else 180), a * d > 0
    if a == d == 0:
        return (270 if b > 0 else 90), b * c < 0
    return 0, False


def _rate(stream: Any) -> Fraction:
    """Frames per second, averaged over the stream where the file tells."""
    rates = (stream.average_rate, stream.base_rate, stream.guessed_rate)
    return Fraction(next((rate for rate in rates if rate and rate <= FASTEST), USUAL_RATE))


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
    told = average and base and average <= FASTEST and (stream.frames or HEAD_PACKETS) > 2
    if told and abs(average / base - 1) > 0.02:
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
