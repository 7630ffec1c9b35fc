"""Stretches of a stream for which a decoder gave nothing, heard from the decoder itself.

ffmpeg's filters fill holes: ``fps`` repeats the last frame, ``aresample`` puts silence. So what
comes out of the pipe is as long as it should be even where half of the file is gone. The commands
of `extractors.media.ffmpeg` therefore have each decoded frame name its second before it meets these
filters, on the standard error beside ffmpeg's complaints; `GapFinder` reads both.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from extractors.media.ended import farewell

CALM_GAP_S = 1.0  # without a complaint, less is a still picture or a pause
DAMAGED_GAP_S = 0.1
# ffmpeg's threads and queues put a complaint at most so many frames before the gap it belongs to.
COMPLAINT_REACH = 64
PATIENCE_S = 10.0  # for lines that are already in the pipe

# Only from version 8.0 on does ffmpeg say who prints.
_NUMBER = re.compile(r"^(?:\[Eval @ [^\]]*\] )?(?:\[info\] )?(-?[\d.]+|-?nan|-?inf)\s*$")
_LEVEL = re.compile(r"\[(?:error|fatal|panic|warning|info)\] ")
_COMPLAINT = re.compile(r"\[(?:error|fatal|panic)\] |corrupt")
_NO_DAMAGE = re.compile(r"non.monoton")  # of muxers, about timestamps that are as they are


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without a decoded frame, in seconds of the container clock.

    Attributes:
        start: End of the last frame before it.
        end: Start of the first frame after it.
        damaged: The decoder complained of damage there, or frames that belong there bear other
            times. Else the file simply has nothing there: a picture that stood still, sound that
            was switched off, or packets that were lost.
    """

    start: float
    end: float
    damaged: bool


def least_gap(usual: float, *, damaged: bool) -> float:
    """Seconds above which the time between two frames is a gap.

    Args:
        usual: Seconds that a frame of the stream usually lasts.
        damaged: Whether the decoder complained of damage there.
    """
    return max(DAMAGED_GAP_S, 2.5 * usual) if damaged else max(CALM_GAP_S, 5 * usual)


def end_before_leap(gaps: Sequence[Gap], limit: float | None) -> float:
    """Second at which a stream ends whose next frame lies where nothing is decoded any more.

    What filters put there is made up: repetitions or silence up to a damaged timestamp.

    Args:
        gaps: Of the stream.
        limit: Second at which decoding stops; None where it does not.

    Returns:
        That second, infinite where no gap reaches past the limit.
    """
    leaps = (gap.start for gap in gaps if limit is not None and gap.end > limit)
    return next(leaps, math.inf)


def printed_number(line: str) -> float | None:
    """The number that an expression of ffmpeg printed; None where a line is another one."""
    found = _NUMBER.match(line)
    return None if found is None else float(found[1])


class GapFinder:
    """Reads the lines of one ffmpeg: seconds of frames, and complaints.

    One thread feeds `take`, others ask.

    Args:
        start: Second at which the stream begins.
        usual: Seconds that a frame lasts; None where each frame names its own (sound).
        promised: Second at which all is over by the file's promise; None where it does not say. A
            gap that leads out of the file was made by a damaged timestamp.
        disorder: Whether it is known that frames bear times that are not theirs: then a gap is
            where those belong that lie elsewhere.
    """

    def __init__(
        self,
        *,
        start: float,
        usual: float | None,
        promised: float | None = None,
        disorder: bool = False,
    ) -> None:
        self._disorder = disorder
        self._last = math.inf if promised is None else promised + CALM_GAP_S
        self._usual = usual
        self._end = start  # of the last frame
        self._pending: float | None = None  # start of a frame whose length comes next
        self._count = 0
        self._complaint = -COMPLAINT_REACH - 1
        self._gaps: list[Gap] = []
        self._waits = True
        self._changed = threading.Condition()

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What was found so far, in order."""
        with self._changed:
            return tuple(self._gaps)

    @property
    def has_heard(self) -> bool:
        """Whether any frame has named its second: else nothing is known of gaps."""
        return self._count > 0

    def take(self, line: str) -> str:
        """Read one line.

        Returns:
            The line without its level where it is a complaint, for the words that a user may be
            told, or a `farewell`; "" where it is of no further interest.
        """
        number = printed_number(line)
        if number is not None:
            self._number(number)
            return ""
        if _COMPLAINT.search(line) and not _NO_DAMAGE.search(line):
            self._complaint = self._count
            return _LEVEL.sub("", line, count=1)
        return farewell(line)

    def close(self) -> None:
        """There are no more lines."""
        with self._changed:
            self._waits = False
            self._changed.notify_all()

    def wait_past(self, second: float) -> None:
        """Wait until frames up to ``second`` have been read of, or none will come any more.

        What comes through the pipe was announced before, but by another thread.
        """
        with self._changed:
            known = self._changed.wait_for(
                lambda: not self._waits or self._end > second, timeout=PATIENCE_S
            )
            if not known:  # frames without timestamps: not waited for again
                self._waits = False

    def _number(self, value: float) -> None:
        if self._usual is not None:
            self._frame(value, self._usual)
        elif self._pending is None:
            self._pending = value
        else:
            start, self._pending = self._pending, None
            self._frame(start, value)

    def _frame(self, start: float, length: float) -> None:
        with self._changed:
            self._count += 1
            if math.isfinite(start) and math.isfinite(length):
                damaged = self._count - self._complaint <= COMPLAINT_REACH
                if start - self._end > least_gap(length, damaged=damaged):
                    damaged = damaged or self._disorder or start > self._last
                    self._gaps.append(Gap(self._end, start, damaged))
                elif self._gaps and start + length < self._gaps[-1].end:
                    # It belongs into the gap, and the filters drop it: its time is over.
                    self._gaps[-1] = replace(self._gaps[-1], damaged=True)
                self._end = max(self._end, start + length)
            self._changed.notify_all()
