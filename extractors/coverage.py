"""How much of a file was decoded: which gaps are holes, and what a user is told of them.

A gap in a stream's timestamps need not be a loss. A screen recording has no frame while nothing
moves; a recorder that is muted may store no sound. It is a hole where the decoder complained of
damage, or where picture and sound have it together: what stands still in silence is still recorded
as silence. Where only one stream is there to tell, regular streams lose their gaps and irregular
ones keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.media.gaps import CALM_GAP_S, Gap
from extractors.media.info import AudioStream, VideoStream
from extractors.windows import CLOCK_RESOLUTION_S, WindowGrid

COMPLETE = 0.99  # decoded share of a stream's promised span below which a result is partial
# Lengths in packets count what encoders put around sound: up to four packets of MP3 in AVI.
PACKET_SLACK_S = 0.12
PAUSING_CODECS = {"opus", "amrnb", "amrwb", "amr_nb", "amr_wb", "speex", "g729", "evrc"}

Hole = tuple[float, float]
"""First and last second of a stretch that is lost."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of one stream while it is decoded.

    Attributes:
        start: First second of the stream.
        reach: Second up to which it has been decoded.
        over: Whether that is its end.
        gaps: Stretches without a decoded frame, at least up to ``reach``.
        steady: Whether its frames follow each other without pause when all are there.
    """

    start: float
    reach: float
    over: bool
    gaps: tuple[Gap, ...]
    steady: bool


def is_steady(stream: VideoStream | AudioStream) -> bool:
    """Whether a gap in a stream is likelier a loss than a pause."""
    if isinstance(stream, VideoStream):
        return not stream.variable_rate
    return stream.codec not in PAUSING_CODECS


def holes(stream: Heard, other: Heard | None) -> tuple[Hole, ...]:
    """Stretches of a stream that are lost, in order and without overlap.

    Args:
        stream: The stream.
        other: The stream of the other modality; None where there is none.
    """
    lost: list[Hole] = []
    for gap in stream.gaps:
        if gap.damaged:
            lost.append((gap.start, gap.end))
        elif other is None or gap.end <= other.start or (other.over and gap.start >= other.reach):
            if stream.steady:
                lost.append((gap.start, gap.end))
        else:
            shared = [(max(gap.start, o.start), min(gap.end, o.end)) for o in other.gaps]
            lost += [(start, end) for start, end in shared if end - start > CALM_GAP_S / 2]
    return _merged(lost)


def _merged(stretches: Sequence[Hole]) -> tuple[Hole, ...]:
    merged: list[Hole] = []
    for start, end in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def lost_seconds(
    first: NDArray[np.float64], last: NDArray[np.float64], lost: Sequence[Hole]
) -> NDArray[np.float64]:
    """Seconds of each stretch ``first`` .. ``last``, (n,), that lie in holes."""
    total = np.zeros(len(first))
    for start, end in lost:
        total += np.maximum(0.0, np.minimum(last, end) - np.maximum(first, start))
    return total


def step_mask(
    grid: WindowGrid, first: int, count: int, stream: Heard, lost: Sequence[Hole], duration: float
) -> NDArray[np.bool_]:
    """Which of ``count`` steps from ``first`` on hold at least half a window of a stream.

    `WindowGrid.mask`, and what lies in holes does not count.
    """
    mask = grid.mask(first + count, stream.start, stream.reach, duration)[first:]
    if not lost:
        return mask
    low = np.arange(first, first + count) * grid.step_seconds
    high = np.minimum(low + grid.window_seconds, max(duration, CLOCK_RESOLUTION_S))
    begin, end = np.maximum(low, stream.start), np.minimum(high, stream.reach)
    there = end - begin - lost_seconds(begin, end, lost)
    half: NDArray[np.bool_] = there >= 0.5 * (high - low) - CLOCK_RESOLUTION_S
    return mask & half


@dataclass(frozen=True, slots=True)
class SpanCheck:
    """What was decoded of a stream's promised span.

    Attributes:
        coverage: Decoded share, in [0, 1].
        complete: Whether it is as good as all of it.
        short: Whether the stream ends before its promise.
        holes: Stretches that are lost inside.
    """

    coverage: float
    complete: bool
    short: bool
    holes: tuple[Hole, ...] = ()


def check_span(
    stream: VideoStream | AudioStream, end: float, fps: float, lost: tuple[Hole, ...]
) -> SpanCheck:
    """Compare what was decoded with what the container promises.

    Less than one frame of the grid is never missed, nor are a few packets of sound: neither the
    last frame's time on screen nor what encoders put around sound is promised more exactly.

    Args:
        stream: What was promised.
        end: Second up to which the stream was decoded; 0 where nothing came.
        fps: Samples per second of the grid.
        lost: Holes before ``end``.
    """
    if end == 0:
        return SpanCheck(0.0, complete=False, short=True)
    promised = end if stream.end is None else stream.end
    slack = 1 / fps if isinstance(stream, VideoStream) else max(1 / fps, PACKET_SLACK_S)
    span = promised - stream.start
    missing = _length(lost, stream.start, min(end, promised)) + max(0.0, promised - end)
    coverage = 1.0 if span <= 0 else min(1.0, max(0.0, 1 - missing / span))
    return SpanCheck(
        coverage,
        complete=coverage >= COMPLETE or missing <= slack,
        short=promised - end > max(slack, (1 - COMPLETE) * span),
        holes=lost,
    )


def _length(lost: Sequence[Hole], first: float, last: float) -> float:
    return float(lost_seconds(np.array([first]), np.array([last]), lost)[0])


def hole_note(noun: str, lost: Sequence[Hole]) -> str:
    """What a user is told of the holes in a stream; "" where there are none."""
    if not lost:
        return ""
    start, end = lost[0]
    if len(lost) == 1:
        return f"{noun} is lost from {start:.1f} to {end:.1f} s"
    total = sum(end - start for start, end in lost)
    return f"{noun} is lost for {total:.1f} s in {len(lost)} places, first at {start:.1f} s"
