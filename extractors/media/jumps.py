"""Long holes in files whose timestamps may jump, told from timestamps that are wrong.

MPEG-TS, MPEG-PS and Ogg have no table of times. Where their timestamps step forward by more than
10 s, ffmpeg takes it for a new beginning of the clock and counts on without the step: right for a
damaged timestamp, which the next one takes back, but what follows a long hole or pause would come
too early by its whole length. Nothing in the packet itself tells one from the other, what comes
after it does: so the packets of such files are looked at before, and ffmpeg is told how long a step
it has to believe. Files without such a step are read as ever.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from extractors.interruption import check_interruption
from extractors.media.ended import crash_of, farewell
from extractors.media.ffmpeg import BELIEVED_STEP_S, ffmpeg_environment, steps_command
from extractors.media.gaps import printed_number
from extractors.media.info import MediaInfo
from extractors.media.limits import decoder_memory
from extractors.media.process import StalledError, WatchedProcess
from pipeline.core.errors import EnvironmentFault

LONGEST_HOLE_S = 3600.0  # a longer step joins two recordings, or nothing that anybody wants to see
WRONG_PACKETS = 64  # after so many packets with wrong timestamps, they are the clock
LEAST_TIME_S = 120.0
SLOWEST_BYTES_PER_S = 4e6  # a disk or network folder slower than this is not waited for
FIELDS = 4

_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class Step:
    """Two neighbouring packets of one stream whose timestamps lie far apart.

    Attributes:
        stream: Number of the stream.
        packet: Number of the second packet in its stream.
        before: Timestamp of the first packet in seconds, on the file's own clock.
        after: That of the second.
    """

    stream: int
    packet: int
    before: float
    after: float

    @property
    def length(self) -> float:
        """Seconds from the first to the second; negative where the clock goes back."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Clock:
    """How the timestamps of a file are to be read.

    Attributes:
        step: Seconds by which they may step forward; None for ffmpeg's own 10 s.
        doubt: What a user must be told of the times; "" where they are certain.
    """

    step: float | None = None
    doubt: str = ""


def read_clock(info: MediaInfo) -> Clock:
    """Look at the timestamps of a file; reads it to its end where they may jump, decodes nothing.

    Asked again for the same file, the answer is remembered.

    Raises:
        EnvironmentFault: There is no ffmpeg.
        DecoderEndedError: Somebody else ended it.
        KeyboardInterrupt: The thread was asked to leave meanwhile (`extractors.interruption`).
    """
    if not info.discontinuous:
        return Clock()
    with _turn:  # picture and sound ask at once
        return _read(info)


@functools.lru_cache(maxsize=8)
def _read(info: MediaInfo) -> Clock:
    return judge(_steps(info), zero=info.clock_offset)


def judge(steps: Sequence[Step], *, zero: float) -> Clock:
    """What a file's long steps mean.

    Args:
        steps: Of all streams, those of each stream in order.
        zero: The file's own timestamp that the container clock calls zero.
    """
    holes, wrong = [], []
    for stream in sorted({step.stream for step in steps}):
        mine = [step for step in steps if step.stream == stream]
        taken_back = False
        for step, later in zip(mine, [*mine[1:], None], strict=True):
            if taken_back:
                taken_back = False
            elif later is not None and _takes_back(step, later):
                wrong.append(abs(step.length))
                taken_back = True
            elif step.length > 0:
                holes.append(step)
    joined = [hole for hole in holes if hole.length > LONGEST_HOLE_S]
    longest = max((hole.length for hole in holes if hole not in joined), default=0.0)
    if joined:
        first = min(joined, key=lambda hole: hole.before)
        return Clock(longest + 1 if longest else None, _told(first, zero, "that is left out"))
    if not longest:
        return Clock()
    if min(wrong, default=LONGEST_HOLE_S) <= longest + 1:
        first = min(holes, key=lambda hole: hole.before)
        return Clock(None, _told(first, zero, "among damaged timestamps: it may be left out"))
    return Clock(longest + 1)


def _takes_back(step: Step, later: Step) -> bool:
    """Whether a step and the next one of its stream are the borders of wrong timestamps."""
    near = later.packet - step.packet <= WRONG_PACKETS
    return near and abs(later.after - step.before) <= BELIEVED_STEP_S


def _told(step: Step, zero: float, what: str) -> str:
    second = max(0.0, step.before - zero)
    return (
        f"the file's clock jumps by {step.length:.0f} s at {second:.1f} s, {what}; "
        "later times are not certain"
    )


def _steps(info: MediaInfo) -> list[Step]:
    """Long steps of the streams in use; none where the file cannot be read to its end in time."""
    numbers: list[float] = []

    def take(line: str) -> str:
        number = printed_number(line)
        if number is not None:
            numbers.append(number)
        return farewell(line)

    try:
        child = WatchedProcess(
            steps_command(info),
            stall_timeout=max(LEAST_TIME_S, info.size_bytes / SLOWEST_BYTES_PER_S),
            environment=ffmpeg_environment(),
            memory=decoder_memory(info),
            on_line=take,
        )
    except OSError as error:
        raise EnvironmentFault(f"ffmpeg does not start: {error}") from error
    try:
        child.fill(memoryview(bytearray(1)))  # comes back at the end: nothing is written
        status = child.wait()
        crash_of(child, status, info.path, noun="times", second=0.0)
        check_interruption()  # which ends the child: nothing may be concluded from that
    except StalledError:
        return []
    finally:
        child.close()
    whole = len(numbers) // FIELDS * FIELDS
    rows = [numbers[place : place + FIELDS] for place in range(0, whole, FIELDS)]
    return [Step(int(row[0]), int(row[1]), row[2], row[3]) for row in rows]
