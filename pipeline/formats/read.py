"""The table of readers: files of events back to events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.core.errors import ConfigError, NothingMatchedError, UsageError
from pipeline.core.events import Detections
from pipeline.formats import activitynet, audacity, csv_rows, elan_read, json_events

Parse = Callable[[str, Path], list[Detections]]
"""Text of a file and its path to the events of each video in it."""

READERS: Mapping[str, Parse] = {
    "json": json_events.parse,
    "csv": csv_rows.parse,
    "audacity": audacity.parse,
    "elan": elan_read.parse,
    "activitynet": activitynet.parse,
}
SUFFIXES = {".csv": "csv", ".txt": "audacity", ".eaf": "elan"}
FARTHEST_S = 1e9  # thirty years: no film is longer
# What a file that is none of a format makes of the code that reads it: brackets in brackets without
# end and numbers of a thousand digits, among others.
DAMAGED = (ValueError, TypeError, AttributeError, RecursionError, OverflowError)


def read(path: Path, format: str | None = None) -> list[Detections]:
    """Events of a file, one entry a video.

    What a format does not keep is not there: scores (1 in their place), notes, the detector, and
    the duration (the end of the last event in its place).

    Args:
        path: The file.
        format: A name of `READERS`; None to tell it by suffix and content.

    Raises:
        NothingMatchedError: There is no such file.
        UsageError: No such format, or none that the file could be.
        ConfigError: The file holds something else.
    """
    if format is not None and format not in READERS:
        raise UsageError(
            f"files of the format {format!r} cannot be read",
            hint=f"choose from {', '.join(READERS)}",
        )
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise NothingMatchedError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    chosen = format or guess_format(path, text)
    try:
        found = READERS[chosen](text, path)
        for entry in found:
            _check_times(entry)
    except KeyError as error:
        raise ConfigError(f"{path} is no {chosen} file: {error} is missing") from error
    except DAMAGED as error:
        raise ConfigError(f"{path} is no {chosen} file: {error}") from error
    return found


def _check_times(entry: Detections) -> None:
    """Refuse seconds that no video has, and that no format can be written with."""
    seconds = [entry.duration, *(second for e in entry.events for second in (e.start, e.end))]
    for second in seconds:
        if not abs(second) <= FARTHEST_S:  # nor NaN
            raise ValueError(f"{second:g} is no second of the video {entry.video[:80]!r}")


def guess_format(path: Path, text: str) -> str:
    """Name of the format that a file seems to have.

    Raises:
        UsageError: It has none of them.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no JSON: {error}") from error
        names = value if isinstance(value, dict) else {}
        return "activitynet" if "results" in names or "database" in names else "json"
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    raise UsageError(
        f"{path.name} does not say in what format it is",
        hint=f"add --from with one of {', '.join(READERS)}",
    )
