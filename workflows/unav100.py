"""UnAV-100: what its annotation file must hold.

Source of the figures: the data set's annotation file, counted (loaded and counted again by the
tests wherever the file is at hand): 10,790 videos of 10 to 60 s, 30,059 events of 100 classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from workflows.annotations import Annotations, Inspection, inspect_annotations
from workflows.data_check import AnnotationReport, SubsetCount, report_of

SUBSETS: Mapping[str, SubsetCount] = MappingProxyType(
    {
        "train": SubsetCount(6489, 18123),
        "validation": SubsetCount(2134, 6036),
        "test": SubsetCount(2167, 5900),
    }
)
DURATIONS_S = (10.0, 60.0)  # shortest and longest video
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@cache
def class_names() -> tuple[str, ...]:
    """The hundred classes; the number of each is its ``label_id``."""
    text = (files("workflows") / "data" / "unav100_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def check_unav100(path: str | os.PathLike[str]) -> tuple[AnnotationReport, Annotations]:
    """Check an annotation file, and compare it with the real one.

    Returns:
        What was found and what differs, and the rows that can be used.

    Raises:
        ConfigError: The file cannot be read, or is of another layout.
    """
    found = inspect_annotations(path)
    report = report_of(found)
    differences = (*_sizes(report), *_labels(found), *_videos(found.annotations))
    return replace(report, differences=differences, expected=SUBSETS), found.annotations


def _sizes(report: AnnotationReport) -> Iterator[str]:
    """Numbers of videos and events that are not those of the real file."""
    for name, wanted in SUBSETS.items():
        count = report.subsets.get(name, SubsetCount(0, 0))
        for what, is_there, real in (
            ("videos", count.videos, wanted.videos),
            ("events", count.events, wanted.events),
        ):
            if is_there != real:
                yield (
                    f"{is_there} {what} in {name!r}, {abs(is_there - real)} "
                    f"{'more' if is_there > real else 'fewer'} than the {real} of UnAV-100"
                )


def _labels(found: Inspection) -> Iterator[str]:
    """Labels and ids that are not those of the hundred classes."""
    names = class_names()
    for label, ids in found.ids.items():
        for id, where in ids.items():
            if id >= len(names):
                yield f"{where}: label_id {id} of {label!r} is out of range 0 to {len(names) - 1}"
            elif names[id] != label:
                right = f", whose id is {names.index(label)}" if label in names else ""
                yield f"{where}: label_id {id} is {names[id]!r} in UnAV-100, not {label!r}{right}"
    labels = {event.label for video in found.annotations.videos.values() for event in video.events}
    if not found.ids and labels:
        yield "no label has a label_id"
    absent = [name for name in names if name not in labels]
    if absent:
        yield f"{len(absent)} classes have no event: {', '.join(absent)}"


def _videos(labels: Annotations) -> Iterator[str]:
    """Videos that cannot be of UnAV-100."""
    shortest, longest = DURATIONS_S
    for id, video in labels.videos.items():
        if not _YOUTUBE_ID.fullmatch(id):
            yield f"video {id!r}: no video of UnAV-100 has such an id"
        if video.subset not in SUBSETS:
            yield f"video {id!r}: its subset is {video.subset!r}, known are {', '.join(SUBSETS)}"
        if video.duration is None:
            yield f"video {id!r}: has no duration"
        elif not shortest <= video.duration <= longest:
            yield (
                f"video {id!r}: lasts {video.duration:g} s, all of UnAV-100 last {shortest:g} to "
                f"{longest:g} s"
            )
        if not video.events:
            yield f"video {id!r}: has no event"
