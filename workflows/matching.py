"""Which stored video a named one is: by exact name, without extension, or by a unique tail."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.core.errors import ConfigError
from workflows.inputs import AUDIO_SUFFIXES, VIDEO_SUFFIXES

SHOWN = 5  # names that a message lists
SUFFIXES = VIDEO_SUFFIXES | AUDIO_SUFFIXES


def match_ids(wanted: Iterable[str], known: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Find each wanted video among the known ones.

    The same name wins. Else names without the extension of a media file are compared: they fit
    when they are equal, or when one is the tail of the other (``clip`` and ``day1/clip``).

    Args:
        wanted: Names in an annotation or results file.
        known: Names in a store, or in the other file.

    Returns:
        Name on the other side of each name that was found, and the names that were not, both in
        the order in which they were wanted.

    Raises:
        ConfigError: A name fits several videos, or two names fit one.
    """
    exact = set(known)
    by_stem: dict[str, list[str]] = {}
    for name in sorted(exact):
        by_stem.setdefault(_parts(name)[-1], []).append(name)
    found: dict[str, str] = {}
    missing = []
    for name in wanted:
        fitting = [name] if name in exact else _fitting(name, by_stem)
        if len(fitting) > 1:
            raise ConfigError(
                f"the name {name!r} fits {len(fitting)} videos: {list_some(fitting)}",
                hint="use the full relative path as the name",
            )
        if fitting:
            found[name] = fitting[0]
        else:
            missing.append(name)
    _check_distinct(found)
    return found, missing


def list_some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _fitting(name: str, by_stem: dict[str, list[str]]) -> list[str]:
    """Known names that differ from ``name`` in extension only; else those by tail."""
    parts = _parts(name)
    near = [(other, _parts(other)) for other in by_stem.get(parts[-1], [])]
    equal = [other for other, theirs in near if theirs == parts]
    if equal:
        return equal
    return [
        other
        for other, theirs in near
        if theirs[-len(parts) :] == parts or parts[-len(theirs) :] == theirs
    ]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and stem; dots that start no extension of a media file belong to the stem.

    Accents are joined to their letters: macOS names files with them apart, keyboards type them
    joined.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    if path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return path.parts or (name,)


def _check_distinct(found: dict[str, str]) -> None:
    owner: dict[str, str] = {}
    for name, target in found.items():
        other = owner.setdefault(target, name)
        if other != name:
            raise ConfigError(
                f"the names {other!r} and {name!r} both fit the video {target!r}",
                hint="name each video once",
            )
