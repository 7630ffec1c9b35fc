"""What an annotation file holds and what is wrong with it, all of it, named.

Training refuses a file at its first twenty mistakes; here every one is listed, and nothing is
refused but a file that cannot be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflows.annotations import Annotations, Inspection, inspect_annotations

SHOWN = 20  # lines of a kind that the table shows
NO_SUBSET = "(none)"


@dataclass(frozen=True, slots=True)
class SubsetCount:
    """Size of one subset.

    Attributes:
        videos: Number of videos.
        events: Number of events that can be used.
    """

    videos: int
    events: int


@dataclass(frozen=True, slots=True)
class AnnotationReport:
    """What was found in an annotation file.

    Attributes:
        path: The file.
        subsets: Sizes by name, in the order of the file.
        classes: Names of the classes.
        seconds: Length of all videos whose duration is given.
        undated: Videos without a duration; their ends cannot be checked.
        empty: Videos without events.
        problems: Rows, videos and labels that are wrong.
        differences: What is not as expected; empty where nothing was expected.
        notes: What was counted and corrected.
        expected: Sizes that were expected.
    """

    path: Path
    subsets: Mapping[str, SubsetCount]
    classes: tuple[str, ...]
    seconds: float
    undated: tuple[str, ...]
    empty: tuple[str, ...]
    problems: tuple[str, ...]
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    expected: Mapping[str, SubsetCount] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 where something is wrong or not as expected."""
        return int(bool(self.problems or self.differences))

    @property
    def videos(self) -> int:
        """Number of videos."""
        return sum(count.videos for count in self.subsets.values())

    @property
    def events(self) -> int:
        """Number of events that can be used."""
        return sum(count.events for count in self.subsets.values())

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "path": str(self.path),
            "videos": self.videos,
            "events": self.events,
            "classes": list(self.classes),
            "seconds": self.seconds,
            "subsets": {
                name: {"videos": count.videos, "events": count.events}
                for name, count in self.subsets.items()
            },
            "without_duration": list(self.undated),
            "without_events": list(self.empty),
            "problems": list(self.problems),
            "differences": list(self.differences),
            "notes": list(self.notes),
        }

    def format_table(self) -> str:
        """The report for a terminal."""
        lines = [str(self.path), f"  {'subset':<14}{'videos':>8}{'events':>8}"]
        names = dict.fromkeys([*self.subsets, *self.expected])
        nothing = SubsetCount(0, 0)
        for name in names:
            lines.append(_line(name, self.subsets.get(name, nothing), self.expected.get(name)))
        whole = SubsetCount(self.videos, self.events)
        if len(names) > 1:
            wanted = _sum(self.expected.values()) if self.expected else None
            lines.append(_line("all", whole, wanted))
        lines.append(f"  {len(self.classes)} classes, {self.seconds / 3600:.1f} h")
        lines += some_lines("wrong", self.problems) + some_lines("differs", self.differences)
        lines += [f"  note: {note}" for note in self.notes]
        if self.undated:
            lines.append(
                f"  note: {len(self.undated)} videos have no duration, events past their end "
                f"cannot be seen: {self.undated[0]}"
            )
        if self.empty:
            lines.append(f"  note: {len(self.empty)} videos have no events: {self.empty[0]}")
        if not self.exit_code:
            lines.append("  ok: every row can be used" + (", as expected" * bool(self.expected)))
        return "\n".join(lines)


def some_lines(word: str, sentences: Sequence[str]) -> list[str]:
    """Up to `SHOWN` sentences as lines of a table, and how many more there are."""
    lines = [f"  {word}: {sentence}" for sentence in sentences[:SHOWN]]
    if len(sentences) > SHOWN:
        lines.append(f"  {word}: ... and {len(sentences) - SHOWN} more (--json names all)")
    return lines


def check_annotations(path: str | os.PathLike[str]) -> tuple[AnnotationReport, Annotations]:
    """Check an annotation file of any data set.

    Returns:
        What was found, and the rows that can be used.

    Raises:
        ConfigError: The file cannot be read, or is of another layout.
    """
    found = inspect_annotations(path)
    return report_of(found), found.annotations


def report_of(found: Inspection) -> AnnotationReport:
    """The report of an inspected file."""
    labels = found.annotations
    counts: dict[str, list[int]] = {}
    for video in labels.videos.values():
        row = counts.setdefault(video.subset or NO_SUBSET, [0, 0])
        row[0] += 1
        row[1] += len(video.events)
    return AnnotationReport(
        path=labels.path,
        subsets={name: SubsetCount(*row) for name, row in counts.items()},
        classes=labels.classes,
        seconds=sum(video.duration or 0.0 for video in labels.videos.values()),
        undated=tuple(id for id, video in labels.videos.items() if video.duration is None),
        empty=tuple(id for id, video in labels.videos.items() if not video.events),
        problems=(*found.fatal, *found.problems),
        notes=labels.notes,
    )


def _line(name: str, count: SubsetCount, wanted: SubsetCount | None) -> str:
    line = f"  {name:<14}{count.videos:>8}{count.events:>8}"
    if wanted is None or wanted == count:
        return line
    return f"{line}   expected {wanted.videos} and {wanted.events}"


def _sum(counts: Iterable[SubsetCount]) -> SubsetCount:
    rows = list(counts)
    return SubsetCount(sum(row.videos for row in rows), sum(row.events for row in rows))
