"""Labels of whole videos, for training without segments: annotation files, or a plain list.

The list is a CSV with a row ``file,label[,label...]`` a video; see `workflows.weak.label_list`. A
row without labels says that nothing of interest happens. All its videos are for training.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import ConfigError
from workflows.annotations import Annotations, BadRows, VideoLabels, load_annotations
from workflows.matching import list_some
from workflows.weak.label_list import read_label_list

SUBSET = "train"
LIKE = 0.85  # from this share of common letters on, a label of one video may be a slip of the pen
JOINTS = re.compile(r"[,;|]")  # what people put between labels


def load_video_labels(path: str | os.PathLike[str], *, bad_rows: BadRows = "error") -> Annotations:
    """Classes of each video; of an annotation file no segment is looked at.

    Args:
        path: ``.csv``, or an ActivityNet-style JSON file.
        bad_rows: As for `load_annotations`.

    Raises:
        ConfigError: The file cannot be read, has rows without a file, or names no label.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        found = load_annotations(path, bad_rows=bad_rows, segments="ignore")
        if not found.classes:
            raise ConfigError(
                f"{path} names no label",
                hint='give each video the rows {"label": ...} of its "annotations"',
            )
        return replace(found, notes=(*found.notes, *_doubtful(found.videos)))
    videos = {
        id: VideoLabels(SUBSET, None, (), tuple(labels))
        for id, labels in read_label_list(path).items()
    }
    names = sorted({label for video in videos.values() for label in video.classes})
    return Annotations(path, tuple(names), tuple(range(len(names))), videos, _doubtful(videos))


def _doubtful(videos: Mapping[str, VideoLabels]) -> tuple[str, ...]:
    """A sentence for each kind of labels that may not be what was meant; none where all are."""
    counts = Counter(label for video in videos.values() for label in video.classes)
    alike = _alike(sorted(counts))
    slips = _slips(counts, leave_out={name for group in alike for name in group})
    said = {
        "labels that differ only in case are classes of their own": (
            " and ".join(map(repr, group)) for group in alike
        ),
        "labels of one video alone are spelt much like others": slips,
        "labels with a mark between their words are one class each, not several": map(
            repr, _several(sorted(counts))
        ),
    }
    return tuple(
        f"{what}: {listed}" for what, names in said.items() if (listed := list_some(names))
    )


def _alike(names: Sequence[str]) -> list[list[str]]:
    """Groups of classes whose names differ in nothing but case."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _slips(counts: Mapping[str, int], *, leave_out: set[str]) -> list[str]:
    """Labels that one video has, each with the one of several videos that is spelt like it."""
    usual = [name for name, count in counts.items() if count > 1]
    single = sorted(name for name, count in counts.items() if count == 1 and name not in leave_out)
    found = []
    for name in single:
        for other in difflib.get_close_matches(name, usual, n=1, cutoff=LIKE):
            found.append(f"{name!r} like {other!r}")
    return found


def _several(names: Iterable[str]) -> list[str]:
    """Labels that look like several in one: a part is itself a label, or ``;`` or ``|`` parts."""
    known = set(names)
    return [
        name
        for name in sorted(known)
        if re.search("[;|]", name)
        or any(part.strip() in known - {name} for part in JOINTS.split(name))
    ]
