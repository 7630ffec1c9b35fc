"""Labels of whole videos, for training without segments: annotation files, or a plain CSV.

::

    file,label
    kitchen/monday.mp4,frying food,dog barking
    garden.mp4,dog barking

One row a video, its labels after it; a header may stand first (its first cell is ``file``,
``filename``, ``path``, ``video`` or ``id``, whatever the others), a video may come again with more
labels, and a row without labels says that nothing of interest happens. All videos
of a CSV are for training.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import ConfigError
from workflows.annotations import (
    Annotations,
    BadRows,
    VideoLabels,
    load_annotations,
    refuse_rows,
)

SUBSET = "train"
HEADERS = ("file", "filename", "path", "video", "id")  # first cell of a header; no media file


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
        return replace(found, notes=(*found.notes, *_alike(found.classes)))
    videos = _read_csv(path)
    names = sorted({label for labels in videos.values() for label in labels})
    if not names:
        raise ConfigError(f"{path} names no label", hint="write file,label[,label...] in each row")
    return Annotations(
        path,
        tuple(names),
        tuple(range(len(names))),
        {id: VideoLabels(SUBSET, None, (), tuple(labels)) for id, labels in videos.items()},
        _alike(names),
    )


def _alike(names: Sequence[str]) -> tuple[str, ...]:
    """A sentence for all classes whose names differ in nothing but case; none where none do."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    doubtful = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not doubtful:
        return ()
    return (f"labels that differ only in case are classes of their own: {', '.join(doubtful)}",)


def _read_csv(path: Path) -> dict[str, list[str]]:
    """Labels of each file, in the order of the rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.reader(text, skipinitialspace=True))
    except FileNotFoundError as error:
        raise ConfigError(f"the labels {path} do not exist", hint="check the path") from error
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"the labels {path} cannot be read as CSV: {error}") from error
    videos: dict[str, list[str]] = {}
    problems = []
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells[0].lower() in HEADERS):
            continue
        if not cells[0]:
            problems.append(f"row {number}: labels {cells[1:]} without a file")
            continue
        known = videos.setdefault(cells[0].replace("\\", "/"), [])
        known += [cell for cell in cells[1:] if cell and cell not in known]
    if problems:
        raise refuse_rows(path, problems, hint="write file,label[,label...] in each row")
    if not videos:
        raise ConfigError(f"{path} names no file", hint="write file,label[,label...] in each row")
    return videos
