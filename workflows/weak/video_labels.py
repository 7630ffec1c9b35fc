"""Labels of whole videos, for training without segments: annotation files, or a plain CSV.

::

    file,label
    kitchen/monday.mp4,frying food,dog barking
    garden.mp4,dog barking

One row a video, its labels after it; a header ``file,label...`` may stand first, a video may come
again with more labels, and a row without labels says that nothing of interest happens. All videos
of a CSV are for training.
"""

from __future__ import annotations

import csv
import os
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


def load_video_labels(path: str | os.PathLike[str], *, bad_rows: BadRows = "error") -> Annotations:
    """Classes of each video; of an annotation file no segment is looked at.

    Args:
        path: ``.csv``, or an ActivityNet-style JSON file.
        bad_rows: As for `load_annotations`.

    Raises:
        ConfigError: The file cannot be read, or has rows without a file.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        return load_annotations(path, bad_rows=bad_rows, segments="ignore")
    videos = _read_csv(path)
    names = sorted({label for labels in videos.values() for label in labels})
    if not names:
        raise ConfigError(f"{path} names no label", hint="write file,label[,label...] in each row")
    return Annotations(
        path,
        tuple(names),
        tuple(range(len(names))),
        {id: VideoLabels(SUBSET, None, (), tuple(labels)) for id, labels in videos.items()},
    )


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
        if not any(cells) or (number == 1 and cells[:2] == ["file", "label"]):
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
