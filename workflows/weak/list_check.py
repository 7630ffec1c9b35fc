"""What a plain list of labels holds, before an hour is spent on extracting its videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.annotations import Annotations
from workflows.matching import list_some
from workflows.weak.video_labels import load_video_labels


@dataclass(frozen=True, slots=True)
class LabelListReport:
    """A list of labels that can be trained on.

    Attributes:
        path: The file.
        videos: Number of videos.
        classes: Videos of each class.
        empty: Videos without labels, in which nothing happens.
        notes: What is doubtful about the labels.
        exit_code: Of the command.
    """

    path: Path
    videos: int
    classes: Mapping[str, int]
    empty: tuple[str, ...]
    notes: tuple[str, ...]
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "path": str(self.path),
            "videos": self.videos,
            "classes": dict(self.classes),
            "without_labels": list(self.empty),
            "problems": [],
            "notes": list(self.notes),
        }

    def format_table(self) -> str:
        """The report for a terminal."""
        width = max(map(len, self.classes), default=0) + 2
        lines = [str(self.path), f"  {'class':<{width}}{'videos':>8}"]
        lines += [f"  {name:<{width}}{count:>8}" for name, count in self.classes.items()]
        lines.append(f"  {len(self.classes)} classes, {self.videos} videos")
        if self.empty:
            lines.append(f"  note: without labels, nothing happens in {list_some(self.empty)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join([*lines, "  ok: every row can be used"])


def check_label_list(path: Path) -> tuple[LabelListReport, Annotations]:
    """Check a CSV of labels.

    Returns:
        What was found, and the labels.

    Raises:
        ConfigError: It cannot be used; every wrong row is named.
    """
    labels = load_video_labels(path)
    counts = Counter(label for video in labels.videos.values() for label in video.classes)
    empty = tuple(id for id, video in labels.videos.items() if not video.classes)
    report = LabelListReport(
        path=path,
        videos=len(labels.videos),
        classes={name: counts[name] for name in labels.classes},
        empty=empty,
        notes=labels.notes,
    )
    return report, labels
