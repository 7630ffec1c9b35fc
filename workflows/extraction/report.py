"""What an extraction did, for people and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["done", "partial", "skipped", "failed", "quarantined"]
OUTCOMES: tuple[Outcome, ...] = ("done", "partial", "skipped", "failed", "quarantined")
BUSY = "another process is extracting it"  # reason of a video that is left to that
EXTRACTED = "another process has extracted it"
SHOWN = 20  # rows with a reason that the table shows of each outcome


@dataclass(frozen=True, slots=True)
class ExtractRow:
    """How one video fared.

    Attributes:
        id: Its name in the store.
        path: The file.
        outcome: ``done``; ``partial`` where a stream ended before its promise; ``skipped``;
            ``failed``; ``quarantined`` where it took its process with it.
        reason: Why, or what the user must know.
        steps: Steps in the store.
        media_seconds: Length of the video.
        seconds: How long the work took.
    """

    id: str
    path: str
    outcome: Outcome
    reason: str = ""
    steps: int = 0
    media_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, by the headers of the files.

    Attributes:
        videos: Videos to extract.
        seconds: Their length together.
        steps: Steps they would give.
        bytes: What those would take on disk.
        unknown: Videos whose header does not say how long they are; not in the sums.
        free: Bytes that are free on the store's disk; None where it does not say.
    """

    videos: int
    seconds: float
    steps: int
    bytes: int
    unknown: int
    free: int | None = None


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """How an extraction went.

    Attributes:
        rows: One per video, in the order of the inputs.
        wall_seconds: How long all of it took, loading included.
        plan: What would be done, for a dry run only.
    """

    rows: Sequence[ExtractRow] = field(repr=False)
    wall_seconds: float
    plan: Plan | None = None

    @property
    def counts(self) -> dict[Outcome, int]:
        """Number of videos by outcome; all five are there."""
        counted = Counter(row.outcome for row in self.rows)
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    @property
    def media_seconds(self) -> float:
        """Length of the videos that this run extracted, together."""
        return sum(row.media_seconds for row in self.rows if row.outcome in ("done", "partial"))

    @property
    def speed(self) -> float:
        """Seconds of video per second of time; 0 where nothing was extracted."""
        return self.media_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0

    @property
    def exit_code(self) -> int:
        """1 where a video failed or is quarantined, else 0."""
        return int(any(row.outcome in ("failed", "quarantined") for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "counts": self.counts,
            "media_seconds": self.media_seconds,
            "wall_seconds": self.wall_seconds,
            "speed": self.speed,
            "plan": None if self.plan is None else asdict(self.plan),
            "videos": [asdict(row) for row in self.rows],
        }

    def format_table(self) -> str:
        """The report for a terminal: videos that need attention, then the sums."""
        lines: list[str] = []
        for outcome in ("quarantined", "failed", "skipped", "partial", "done"):
            chosen = [row for row in self.rows if row.outcome == outcome and _is_told(row)]
            lines += [f"{outcome:<12} {row.id}: {row.reason}" for row in chosen[:SHOWN]]
            if len(chosen) > SHOWN:
                lines.append(f"{outcome:<12} ... and {len(chosen) - SHOWN} more")
        if lines:
            lines.append("")
        lines.append(self._sums() if self.plan is None else self._intent(self.plan))
        return "\n".join(lines)

    def _sums(self) -> str:
        parts = [f"{count} {outcome}" for outcome, count in self.counts.items() if count]
        text = ", ".join(parts) or "nothing to do"
        if self.media_seconds:
            text += (
                f"; {_clock(self.media_seconds)} of video in {_clock(self.wall_seconds)}, "
                f"{self.speed:.1f} x real time"
            )
        return text

    def _intent(self, plan: Plan) -> str:
        counts = self.counts
        text = (
            f"{plan.videos} videos to extract ({_clock(plan.seconds)}, {plan.steps} steps, "
            f"{_size(plan.bytes)}), {counts['skipped']} skipped, "
            f"{counts['failed'] + counts['quarantined']} failing"
        )
        if plan.unknown:
            text += f"; {plan.unknown} do not say how long they are"
        if plan.free is not None and plan.free < plan.bytes:
            text += f"\nthe disk has room for {_size(plan.free)} only"
        return text


def _is_told(row: ExtractRow) -> bool:
    """Whether the user must know; of what was done before, the number will do."""
    return row.reason == BUSY if row.outcome == "skipped" else bool(row.reason)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


def _size(count: int) -> str:
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
