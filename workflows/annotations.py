"""Annotation files in the style of ActivityNet and UnAV-100, checked row by row.

::

    {"database": {"<video>": {"duration": 47.7, "subset": "train",
                              "annotations": [{"segment": [13.0, 15.8], "label": "dog barking",
                                               "label_id": 3}]}}}

``label_id`` may be left out everywhere; classes are then numbered in alphabetical order, so that
the same labels give the same numbers however the file is sorted. Ids with gaps are numbered anew
in their order. Segments are seconds on the video's own clock. ActivityNet's files of
`workflows.two_files` are read, too.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.events import Event
from workflows.two_files import joined

DURATION_SLACK_S = 0.5  # durations are often rounded to seconds; an end past them is clipped
DUPLICATE_S = 1e-3  # two events of a class whose ends are so near are one (UnAV's evaluator)
SHOWN = 20  # problems that an error names

BadRows = Literal["error", "drop"]
Segments = Literal["read", "ignore"] | AbstractSet[str]


@dataclass(frozen=True, slots=True)
class VideoLabels:
    """One video of the file.

    Attributes:
        subset: Subset in lower case; empty where the file says none.
        duration: Seconds, or None where the file says none.
        events: Its events with score 1, in the order of the file.
        only_classes: Classes of a video whose segments are unknown or were not to be read.
        unsure: Stretches that may or may not belong to an event of the class; no file has them.
    """

    subset: str
    duration: float | None
    events: tuple[Event, ...]
    only_classes: tuple[str, ...] = ()
    unsure: tuple[Event, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """What happens in the video, each class once."""
        return tuple(dict.fromkeys([*self.only_classes, *(event.label for event in self.events)]))


@dataclass(frozen=True, slots=True)
class Annotations:
    """A checked annotation file.

    Attributes:
        path: Where it was read from.
        classes: Names of the K classes, in the order of their numbers.
        label_ids: The file's own id of each class; its number where the file has none.
        videos: By id, in the order of the file.
        notes: What was repaired or left out, one sentence each.
    """

    path: Path
    classes: tuple[str, ...]
    label_ids: tuple[int, ...]
    videos: Mapping[str, VideoLabels] = field(repr=False)
    notes: tuple[str, ...] = ()

    def subset(self, name: str) -> dict[str, VideoLabels]:
        """The videos of a subset by id; case does not matter.

        Raises:
            ConfigError: No video is in it; the message says which subsets there are.
        """
        found = {id: video for id, video in self.videos.items() if video.subset == name.lower()}
        if found:
            return found
        counts = Counter(video.subset for video in self.videos.values())
        known = [subset for subset in counts if subset]
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(f"{subset} ({counts[subset]} videos)" for subset in known) or "none"
        raise ConfigError(
            f"{self.path} has no video in the subset {name!r}", hint=f"{guess}subsets: {listed}"
        )


def load_annotations(
    path: str | os.PathLike[str], *, bad_rows: BadRows = "error", segments: Segments = "read"
) -> Annotations:
    """Read and check an annotation file.

    Args:
        path: The JSON file.
        bad_rows: ``error`` refuses a file with impossible rows; ``drop`` leaves them out and says
            so in the notes. Conflicts between labels and label ids are always refused.
        segments: ``ignore`` looks at no segment, which then may be missing or wrong, and gives
            each video its classes alone. A set of ids looks at those of these videos.

    Raises:
        ConfigError: The file cannot be read, is of another layout, or has wrong rows; each is
            named with its video and row.
    """
    found = inspect_annotations(path, segments=segments)
    labels, problems = found.annotations, found.problems
    if found.fatal or (problems and bad_rows == "error"):
        raise _refusal(labels.path, [*found.fatal, *problems], droppable=not found.fatal)
    if not problems:
        return labels
    lost = f"{len(problems)} bad rows of {labels.path} were left out, first {problems[0]}"
    return replace(labels, notes=(*labels.notes, lost))


def load_truth(
    path: str | os.PathLike[str], *, subset: str, bad_rows: BadRows = "error"
) -> Annotations:
    """All labels of an annotation file, and the segments of one subset.

    Segments of other subsets are not looked at: they may be missing or wrong.

    Args:
        path: The JSON file.
        subset: Its name.
        bad_rows: As for `load_annotations`.

    Raises:
        ConfigError: As for `load_annotations`; no video is in the subset.
    """
    labels = load_annotations(path, bad_rows=bad_rows, segments="ignore")
    return load_annotations(path, bad_rows=bad_rows, segments=set(labels.subset(subset)))


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that is wrong with an annotation file, and what can be made of the rest.

    Attributes:
        annotations: What can be used; classes are in doubt where something is fatal.
        fatal: Conflicts that nothing can be left out for: labels and their ids, names given twice.
        problems: Rows and videos that cannot be used.
        ids: Of each label, its ids, and where each was first seen.
        spoilt: Videos of which something cannot be used.
    """

    annotations: Annotations
    fatal: tuple[str, ...]
    problems: tuple[str, ...]
    ids: Mapping[str, Mapping[int, str]] = field(repr=False)
    spoilt: AbstractSet[str] = field(default=frozenset(), repr=False)


def inspect_annotations(path: str | os.PathLike[str], *, segments: Segments = "read") -> Inspection:
    """Read an annotation file and collect what is wrong instead of refusing it.

    Of a name that is there twice, the later entry is looked at.

    Args:
        path: The JSON file.
        segments: See `load_annotations`.

    Raises:
        ConfigError: The file cannot be read, or is of another layout.
    """
    path = Path(path)
    check = _Check(path, segments)
    for video, entry in check.database().items():
        before = len(check.problems)
        check.video(video, entry)
        if len(check.problems) > before:
            check.spoilt.add(video)
    classes, label_ids = check.classes()
    labels = Annotations(path, classes, label_ids, check.videos, tuple(check.notes))
    fatal, problems = tuple(check.fatal), tuple(check.problems)
    return Inspection(labels, fatal, problems, check.ids, frozenset(check.spoilt))


class _Check:
    """Walks through a file and collects what is wrong with it."""

    def __init__(self, path: Path, segments: Segments) -> None:
        self.path = path
        self.segments = segments
        self.videos: dict[str, VideoLabels] = {}
        self.fatal: list[str] = []  # nothing can be made of the file
        self.problems: list[str] = []  # one row, or one video, cannot be used
        self.spoilt: set[str] = set()  # whose rows these are
        self.notes: list[str] = []
        self.ids: dict[str, dict[int, str]] = {}  # label -> id -> where it was first seen
        self._without: dict[str, str] = {}  # label without an id -> where
        self._duplicates = 0
        self._clipped = 0

    def database(self) -> dict[str, Any]:
        twice: list[str] = []
        value = read_json(self.path, what="annotation file", twice=twice)
        self.fatal += [f"{name!r} is there twice" for name in twice]
        database = joined(value, self.path)
        if database is None and isinstance(value, dict):
            database = value.get("database")
        if not isinstance(database, dict) or not database:
            raise ConfigError(
                f"{self.path} is no annotation file: it has no videos under 'database'",
                hint='expected {"database": {video: {"subset", "annotations": [...]}}}',
            )
        return database

    def video(self, id: str, entry: Any) -> None:
        rows = entry.get("annotations") if isinstance(entry, dict) else None
        if not isinstance(rows, list):
            self.problems.append(f"video {id!r}: has no list 'annotations'")
            return
        duration = entry.get("duration")
        if duration is not None and not (_finite(duration) and duration > 0):
            self.problems.append(f"video {id!r}: duration {duration!r} is no positive number")
            duration = None
        subset = entry.get("subset", "")
        if not isinstance(subset, str):
            self.problems.append(f"video {id!r}: subset {subset!r} is no text")
            subset = ""
        events: list[Event] = []
        labels: list[str] = []
        for index, row in enumerate(rows):
            where = f"video {id!r}, row {index}"
            label = self._label(row, where)
            if label is not None and self._is_ignored(id):
                labels.append(label)
            elif label is not None:
                self._row(events, label, row, duration, where)
        self.videos[id] = VideoLabels(
            subset.lower(), duration, tuple(events), tuple(dict.fromkeys(labels))
        )

    def _is_ignored(self, id: str) -> bool:
        if isinstance(self.segments, str):
            return self.segments == "ignore"
        return id not in self.segments

    def _label(self, row: Any, where: str) -> str | None:
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, str) or not label.strip():
            self.problems.append(f"{where}: has no 'label'")
            return None
        self._note_id(label, row.get("label_id"), where)
        return label

    def _row(
        self, events: list[Event], label: str, row: Any, duration: float | None, where: str
    ) -> None:
        segment = row.get("segment")
        if not isinstance(segment, list) or len(segment) != 2 or not all(map(_finite, segment)):
            self.problems.append(f"{where}: segment {segment!r} is not two finite seconds")
            return
        start, end = map(float, segment)
        wrong = _impossible(start, end, duration)
        if wrong:
            self.problems.append(f"{where}: segment [{start:g}, {end:g}] of {label!r} {wrong}")
            return
        self._clipped += duration is not None and end > duration
        event = Event(start, end if duration is None else min(end, float(duration)), label, 1.0)
        if any(_same(event, other) for other in events):
            self._duplicates += 1
        else:
            events.append(event)

    def _note_id(self, label: str, id: Any, where: str) -> None:
        if id is None:
            self._without.setdefault(label, where)
        elif isinstance(id, int) and not isinstance(id, bool) and id >= 0:
            self.ids.setdefault(label, {}).setdefault(id, where)
        else:
            self.fatal.append(f"{where}: label_id {id!r} of {label!r} is no whole number from 0")

    def classes(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names of the classes and their ids in the file, by number."""
        if self._clipped:
            self.notes.append(
                f"{self._clipped} rows of {self.path} end up to {DURATION_SLACK_S:g} s after their "
                "video and were cut to its end"
            )
        if self._duplicates:
            self.notes.append(
                f"{self._duplicates} rows of {self.path} repeat another (same label, ends within "
                f"{DUPLICATE_S:g} s) and were left out"
            )
        if not self.ids:
            return tuple(sorted(self._without)), tuple(range(len(self._without)))
        owners: dict[int, tuple[str, str]] = {}
        for label, ids in self.ids.items():
            if len(ids) > 1:
                listed = " and ".join(f"{id} ({where})" for id, where in ids.items())
                self.fatal.append(f"label {label!r} has the label_ids {listed}")
            for id, where in ids.items():
                other, first = owners.setdefault(id, (label, where))
                if other != label:
                    self.fatal.append(
                        f"label_id {id} stands for {other!r} ({first}) and {label!r} ({where})"
                    )
        for label, where in self._without.items():
            if label not in self.ids:
                self.fatal.append(f"{where}: label {label!r} has no label_id, other labels have")
        ordered = sorted((min(ids), label) for label, ids in self.ids.items())
        return tuple(label for _, label in ordered), tuple(id for id, _ in ordered)


def read_json(path: Path, *, what: str, twice: list[str] | None = None) -> Any:
    """A JSON value; a video that is named twice is an error, not a silent replacement.

    Args:
        path: The file.
        what: What it is, for messages.
        twice: Takes the names that are there twice, which are then no error.

    Raises:
        ConfigError: The file is missing, unreadable or no JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            names = [key for key, count in counts.items() if count > 1]
            if twice is None:
                raise ConfigError(
                    f"{path}: {names[0]!r} is there twice", hint="join or rename the two"
                )
            twice.extend(names)
        return value

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError as error:
        raise ConfigError(f"the {what} {path} does not exist", hint="check the path") from error
    except OSError as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the {what} {path} is no valid JSON: {error}") from error


def refuse_rows(path: Path, problems: Sequence[str], *, hint: str) -> ConfigError:
    """One error that names up to `SHOWN` problems of a file."""
    shown = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        shown.append(f"... and {len(problems) - SHOWN} more")
    if len(problems) == 1:
        return ConfigError(f"{path}: {problems[0]}", hint=hint)
    return ConfigError(
        "\n  ".join([f"{path} has {len(problems)} problems:", *shown]) + "\n", hint=hint
    )


def _refusal(path: Path, problems: Sequence[str], *, droppable: bool) -> ConfigError:
    way = "correct the file"
    if droppable:
        way += (
            ", or leave such rows out with data.bad_rows=drop in a recipe, or with --bad-rows drop "
            "of pipeline eval"
        )
    return refuse_rows(path, problems, hint=way)


def _impossible(start: float, end: float, duration: float | None) -> str:
    """Why a segment cannot be; empty where it can."""
    if start < 0:
        return "starts before 0"
    if end <= start:
        return "does not end after its start"
    if duration is not None and start >= duration:
        return f"lies past the end of the video at {duration:g} s"
    if duration is not None and end > duration + DURATION_SLACK_S:
        return f"ends past the end of the video at {duration:g} s"
    return ""


def _same(one: Event, other: Event) -> bool:
    return (
        one.label == other.label
        and abs(one.start - other.start) <= DUPLICATE_S
        and abs(one.end - other.end) <= DUPLICATE_S
    )


def _finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold; JSON has none too large to be written."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max
