"""The training-free detector on real labelled clips, clip by clip, and what it cannot know.

The list of clips and what is seen and heard in them is `data/real_clips.yaml`; the clips themselves
are given as a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import NothingMatchedError
from pipeline.core.events import Detections, Event
from workflows.bench.record import Figure
from workflows.detection.run import Detector, load_detector

TABLE = "real_clips.yaml"
ALWAYS = (0.0, float("inf"))
HEADER = ("clip", "seen and heard", "best event", "start", "end", "score", "tIoU", "")


@dataclass(frozen=True, slots=True)
class Presence:
    """A class that is there from ``start`` to ``end`` seconds of a clip."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Clip:
    """What a clip holds.

    Attributes:
        file: Name below the folder of clips.
        counted: Whether it counts among the clips with a class of UnAV-100 or AVSync15.
        events: Seen and heard.
        heard_only: Heard there while not seen.
        seen_only: Seen there while not heard.
    """

    file: str
    counted: bool
    events: tuple[Presence, ...]
    heard_only: tuple[Presence, ...]
    seen_only: tuple[Presence, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes that are seen and heard."""
        return tuple(dict.fromkeys(event.label for event in self.events))


@dataclass(frozen=True, slots=True)
class FalseAlarm:
    """An event of a class where that class is only heard or only seen.

    Attributes:
        event: The event.
        how: ``only heard`` or ``only seen``.
        seconds: How much of the event lies there.
        inside: Whether the clip holds true events of the class elsewhere, so that the event may
            have found one of them and reaches too far.
    """

    event: Event
    how: str
    seconds: float
    inside: bool


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What the detector said of a clip.

    Attributes:
        clip: The clip.
        known: Which of its classes the detector reports at all.
        traps: How many of its only heard or only seen classes the detector could fall for: those
            it reports at all.
        best: Its strongest event, if any.
        tiou: Largest temporal overlap of ``best`` with a true event of its class.
        false_alarms: Events of a class where that class is only heard or only seen.
    """

    clip: Clip
    known: tuple[str, ...]
    traps: int
    best: Event | None
    tiou: float
    false_alarms: tuple[FalseAlarm, ...]

    @property
    def right(self) -> bool:
        """Whether the strongest event has a class that is seen and heard in the clip."""
        return self.best is not None and self.best.label in self.clip.labels

    @property
    def verdict(self) -> str:
        """One word or three."""
        if self.right:
            return "right"
        said = "wrong" if self.best else "nothing"
        return said if self.known or not self.clip.events else f"{said}, cannot know"


@dataclass(frozen=True, slots=True)
class ClipsReport:
    """Results of all clips that were there, and the names of those that were not."""

    detector: str
    results: tuple[ClipResult, ...]
    missing: tuple[str, ...]

    @property
    def counted(self) -> tuple[ClipResult, ...]:
        """Results of the clips that count."""
        return tuple(result for result in self.results if result.clip.counted)

    def figures(self) -> list[Figure]:
        """The report for machines."""
        counted = self.counted
        alarms = [alarm for result in self.results for alarm in result.false_alarms]
        absent = sum(not alarm.inside for alarm in alarms)
        return [
            Figure("clips", len(counted), "1", "neither"),
            Figure("clips of a known class", sum(bool(r.known) for r in counted), "1", "neither"),
            Figure("best event right", sum(result.right for result in counted), "1", "higher"),
            Figure("mean tIoU of the best event", _mean_tiou(counted), "1", "higher"),
            Figure("events of an absent class", absent, "1"),
            Figure("events that reach too far", len(alarms) - absent, "1"),
        ]

    def format_table(self) -> str:
        """The report as text: one row per clip, then false alarms, then the sums."""
        counted = self.counted
        rows = [HEADER, *(_row(result) for result in counted)]
        lines = [f"detector: {self.detector}", "", *_columns(rows), ""]
        lines += [
            "other clips:",
            *_columns([_row(r) for r in self.results if r not in counted]),
            "",
        ]
        lines += ["classes that are only heard or only seen:", *self._one_sided(), ""]
        right = sum(result.right for result in counted)
        able = sum(bool(result.known) for result in counted)
        lines.append(
            f"best event right on {right} of {len(counted)} clips; {able} of them have a class "
            f"that the detector knows, of which {right} right"
        )
        if self.missing:
            lines.append(f"not found, {len(self.missing)} clips: {', '.join(self.missing)}")
        return "\n".join(lines)

    def _one_sided(self) -> Iterator[str]:
        for result in self.results:
            for alarm in result.false_alarms:
                event = alarm.event
                what = f"{event.label} {event.start:.2f} to {event.end:.2f} s"
                if alarm.inside:
                    how = f"reaches {alarm.seconds:.2f} s into where it is {alarm.how}"
                    yield f"  too far {result.clip.file}: {what}, {how}, score {event.score:.2f}"
                else:
                    how = f"{alarm.how}, score {event.score:.2f}"
                    yield f"  FALSE ALARM {result.clip.file}: {what}, {how}"
        alarms = [alarm for result in self.results for alarm in result.false_alarms]
        listed = sum(len(r.clip.heard_only) + len(r.clip.seen_only) for r in self.results)
        traps = sum(result.traps for result in self.results)
        absent = sum(not alarm.inside for alarm in alarms)
        yield (
            f"  {listed} such classes or stretches, {traps} of a class that the detector knows: "
            f"{absent} events of a class that is nowhere seen and heard in the clip, "
            f"{len(alarms) - absent} that reach too far"
        )


def measure_clips(folder: Path, *, detector: Detector | None = None) -> ClipsReport:
    """Run a detector on the clips of the table that lie in ``folder``.

    Args:
        folder: Holds the clips under the names of the table.
        detector: The training-free one when omitted.

    Raises:
        NothingMatchedError: No clip of the table is there.
    """
    clips = load_clips()
    there = [clip for clip in clips if (folder / clip.file).is_file()]
    if not there:
        raise NothingMatchedError(
            f"{folder} holds none of the {len(clips)} clips of {TABLE}",
            hint="give the folder that holds them under their names in that table",
        )
    detector = detector or load_detector()
    results = [judge(clip, detector(folder / clip.file), detector.labels) for clip in there]
    missing = tuple(clip.file for clip in clips if clip not in there)
    return ClipsReport(detector.name, tuple(results), missing)


def load_clips() -> tuple[Clip, ...]:
    """The committed table of clips."""
    text = resources.files("workflows").joinpath("data", TABLE).read_text(encoding="utf-8")
    return tuple(_clip(row) for row in yaml.safe_load(text)["clips"])


def _clip(row: Mapping[str, Any]) -> Clip:
    def presences(name: str) -> tuple[Presence, ...]:
        return tuple(
            Presence(label, *map(float, times or ALWAYS)) for label, *times in row.get(name, ())
        )

    return Clip(
        file=row["file"],
        counted=row["counted"],
        events=presences("events"),
        heard_only=presences("heard_only"),
        seen_only=presences("seen_only"),
    )


def judge(clip: Clip, found: Detections, known: Sequence[str]) -> ClipResult:
    """Hold a detector's events against a clip.

    Args:
        clip: What is there.
        found: What the detector found.
        known: Classes that the detector reports.
    """
    events = found.events
    best = max(events, key=lambda event: event.score, default=None)
    truths = [truth for truth in clip.events if best is not None and truth.label == best.label]
    overlaps = [_tiou(best, truth, found.duration) for truth in truths if best is not None]
    alarms = [
        FalseAlarm(event, how, seconds, inside=event.label in clip.labels)
        for how, presences in (("only heard", clip.heard_only), ("only seen", clip.seen_only))
        for presence in presences
        for event in events
        if event.label == presence.label
        and (seconds := min(event.end, presence.end) - max(event.start, presence.start)) > 0
    ]
    return ClipResult(
        clip=clip,
        known=tuple(label for label in clip.labels if label in known),
        traps=sum(p.label in known for p in (*clip.heard_only, *clip.seen_only)),
        best=best,
        tiou=max(overlaps, default=0.0),
        false_alarms=tuple(alarms),
    )


def _mean_tiou(results: Sequence[ClipResult]) -> float:
    """Of all clips; a clip whose best event is wrong counts as 0."""
    return sum(r.tiou for r in results if r.right) / max(1, len(results))


def _tiou(event: Event, truth: Presence, duration: float) -> float:
    """Intersection over union in time; what is always there lasts for the whole clip."""
    end = min(truth.end, duration)
    shared = min(event.end, end) - max(event.start, truth.start)
    union = max(event.end, end) - min(event.start, truth.start)
    return max(0.0, shared) / union if union > 0 else 0.0


def _row(result: ClipResult) -> tuple[str, ...]:
    truth = ", ".join(result.clip.labels) or "none of the table"
    if result.best is None:
        return (result.clip.file, truth, "-", "", "", "", "", result.verdict)
    best = result.best
    numbers = (f"{best.start:.2f}", f"{best.end:.2f}", f"{best.score:.2f}")
    tiou = f"{result.tiou:.2f}" if result.right else ""
    return (result.clip.file, truth, best.label, *numbers, tiou, result.verdict)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned; those that hold numbers to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    return [
        "  ".join(
            cell.rjust(width) if 3 <= index <= 6 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
