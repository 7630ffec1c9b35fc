"""ActivityNet 1.3 in two files, as it is often handed on: durations here, subsets there.

``anet_anno_action.json`` has ``{video: {"duration_second", "annotations": [...]}}`` and
``video_info_new.csv``, beside it, a row for each video with the columns ``video`` and ``subset``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError

INFO = "video_info_new.csv"


def label_files(path: Path) -> tuple[Path, ...]:
    """All files that the labels of an annotation file come from."""
    info = path.with_name(INFO)
    return (path, info) if info.exists() else (path,)


def joined(value: Any, path: Path) -> dict[str, Any] | None:
    """The entries of a ``database`` of ActivityNet's own layout; None where the file is another.

    Args:
        value: What the first file holds.
        path: Its path.

    Raises:
        ConfigError: The second file is missing, or is of another layout.
    """
    if not isinstance(value, dict) or not value or not all(map(_is_entry, value.values())):
        return None
    subsets = _subsets(path)
    return {
        id: {
            "duration": entry["duration_second"],
            "subset": subsets.get(id, ""),
            "annotations": entry["annotations"],
        }
        for id, entry in value.items()
    }


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and {"duration_second", "annotations"} <= value.keys()


def _subsets(path: Path) -> Mapping[str, str]:
    info = path.with_name(INFO)
    try:
        with info.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.DictReader(text))
        return {row["video"]: row["subset"] or "" for row in rows}
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} says no subset of any video, and there is no {INFO} beside it",
            hint=f"put {INFO} into the same folder",
        ) from error
    except KeyError as error:
        raise ConfigError(
            f"{info} has no column {error}", hint="it needs video and subset"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{info} cannot be read as CSV: {error}") from error
