"""How the field lays out feature files: a table, one row each, and finding videos in a folder.

A layout is a list of parts. A part says where its array lies: a pattern of the path below the
folder, in which ``{id}`` stands for the video, and for an npz file the key behind a colon:
``{id}_rgb.npy``, ``video/{id}.npy``, ``{id}.npz:audio``. Several parts of one modality are laid
side by side in the order of the list. An id may hold folders: it is a relative path, like all ids.

Arrays are (T, D): T steps, D values.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from extractors.released import RELEASED
from extractors.spec import MODALITIES, BackboneSpec, Modality
from pipeline.core.errors import NothingMatchedError, UsageError

ID = "{id}"

# Durations in annotations are those of containers; streams end earlier, and decoders lose frames.
# For UnAV-100 a second is our choice. For ActivityNet, frames / rate differs from the annotated
# duration by more than 2 s in 0.7 % of its 19,228 videos, by more than 1 s in 1.6 % (video_info of
# BMN's annotations).
UNAV_SLACK_S = 1.0
ACTIVITYNET_SLACK_S = 2.0


@dataclass(frozen=True, slots=True)
class Part:
    """One array of each video.

    Attributes:
        modality: What it belongs to.
        pattern: Relative path with ``{id}`` in it.
        key: Name of the array in an npz file; empty for an npy file.
        dim: Its width D; None where any will do, as long as all videos agree.
    """

    modality: Modality
    pattern: str
    key: str = ""
    dim: int | None = None

    @property
    def place(self) -> str:
        """Pattern and key, as a user writes them."""
        return f"{self.pattern}:{self.key}" if self.key else self.pattern

    def path(self, id: str) -> str:
        """Relative path of a video's file."""
        return self.pattern.replace(ID, id)


@dataclass(frozen=True, slots=True)
class Layout:
    """One row of the table.

    Attributes:
        name: As given to ``--layout``.
        parts: Its arrays.
        spec: The features that it holds; None where only its user knows.
        slack: Seconds by which T may miss what the video's duration lets expect.
        about: One line for people.
    """

    name: str
    parts: tuple[Part, ...]
    spec: BackboneSpec | None
    slack: float
    about: str

    def of(self, modality: Modality) -> list[int]:
        """Numbers of the parts of a modality, in order."""
        return [number for number, part in enumerate(self.parts) if part.modality == modality]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Distinct paths of its parts: several arrays of a video may share an npz file."""
        return tuple(dict.fromkeys(part.pattern for part in self.parts))


def _onepeace(name: str, slack: float, about: str) -> Layout:
    return Layout(
        name,
        (
            Part("vision", "{id}_one_peace_video_finetune.npy", dim=1536),
            Part("audio", "{id}_one_peace_audio.npy", dim=1536),
        ),
        RELEASED[name],
        slack,
        about,
    )


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        row.name: row
        for row in (
            Layout(
                "unav100-i3d-vggish",
                (
                    Part("vision", "{id}_rgb.npy", dim=1024),
                    Part("vision", "{id}_flow.npy", dim=1024),
                    Part("audio", "{id}_vggish.npy", dim=128),
                ),
                RELEASED["unav100-i3d-vggish"],
                UNAV_SLACK_S,
                "UnAV-100: I3D RGB and flow, VGGish; 25 fps, 24 frames, stride 8",
            ),
            _onepeace(
                "unav100-onepeace",
                UNAV_SLACK_S,
                "UnAV-100 of UniAV: ONE-PEACE; 16 fps, 16 frames, stride 4",
            ),
            _onepeace(
                "activitynet13-onepeace",
                ACTIVITYNET_SLACK_S,
                "ActivityNet 1.3 of UniAV: ONE-PEACE; 16 fps, 16 frames, stride 8",
            ),
            Layout(
                "npy",
                (Part("vision", "vision/{id}.npy"), Part("audio", "audio/{id}.npy")),
                None,
                UNAV_SLACK_S,
                "one array a file; any features",
            ),
            Layout(
                "npz",
                (Part("vision", "{id}.npz", "vision"), Part("audio", "{id}.npz", "audio")),
                None,
                UNAV_SLACK_S,
                "both arrays in a file; any features",
            ),
        )
    }
)


def find_layout(
    name: str, *, vision: Sequence[str] = (), audio: Sequence[str] = (), slack: float | None = None
) -> Layout:
    """A row of the table, with places and slack of one's own where they are given.

    Args:
        name: Its name.
        vision: Places of the picture parts, instead of the row's.
        audio: Likewise for sound.
        slack: Seconds by which T may miss what the duration lets expect.

    Raises:
        UsageError: Unknown name; a place without ``{id}``; another number of places than the row
            has widths for; two parts in one place.
    """
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name.lower(), LAYOUTS, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"unknown layout {name!r}", hint=f"{guess}layouts: {', '.join(LAYOUTS)}")
    row = LAYOUTS[name]
    if slack is not None and not 0 <= slack < float("inf"):
        raise UsageError(f"a length slack of {slack:g} s is impossible", hint="give 0 or more")
    parts: list[Part] = []
    for modality, places in zip(MODALITIES, (vision, audio), strict=True):
        standing = [row.parts[number] for number in row.of(modality)]
        parts += _moved(row, standing, modality, places) if places else standing
    twice = {part.place for part in parts if [other.place for other in parts].count(part.place) > 1}
    if twice:
        raise UsageError(f"two arrays lie at {min(twice)!r}", hint="give each a place of its own")
    return replace(row, parts=tuple(parts), slack=row.slack if slack is None else slack)


def _moved(
    row: Layout, standing: Sequence[Part], modality: Modality, places: Sequence[str]
) -> list[Part]:
    if row.spec is not None and len(places) != len(standing):
        raise UsageError(
            f"the layout {row.name!r} has {len(standing)} {modality} arrays, {len(places)} places "
            "were given",
            hint="in its order: " + ", ".join(part.place for part in standing),
        )
    dims = [part.dim for part in standing] if row.spec is not None else [None] * len(places)
    return [_part(modality, place, dim) for place, dim in zip(places, dims, strict=True)]


def _part(modality: Modality, place: str, dim: int | None) -> Part:
    path, _, key = place.partition(":")
    pattern = path.replace("\\", "/").removeprefix("./")
    if pattern.count(ID) != 1 or pattern.startswith("/") or ".." in pattern.split("/"):
        raise UsageError(
            f"{place!r} is no place of feature files",
            hint="write a path below the folder with one {id} in it, like rgb/{id}.npy",
        )
    if pattern.endswith(".npz") != bool(key) or not pattern.endswith((".npz", ".npy")):
        raise UsageError(
            f"{place!r} names no array", hint="write {id}.npy, or {id}.npz:KEY with the key in it"
        )
    return Part(modality, pattern, key, dim)


@dataclass(frozen=True, slots=True)
class FoundVideos:
    """What a folder holds of a layout.

    Attributes:
        folder: The folder.
        layout: The layout.
        videos: Of each video, by sorted id, its files by pattern.
        unusable: Files whose name makes no id, and why.
        others: Files that belong to no part, as relative paths.
    """

    folder: Path
    layout: Layout
    videos: Mapping[str, Mapping[str, Path]] = field(repr=False)
    unusable: Mapping[str, str]
    others: tuple[str, ...]


def find_videos(folder: str | os.PathLike[str], layout: Layout) -> FoundVideos:
    """Look through a folder and all folders below it. Hidden files are not looked at.

    Where a file fits several patterns, the one that says most of its name counts.

    Raises:
        NothingMatchedError: There is no such folder, or no file of the layout in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NothingMatchedError(f"{folder} is no folder", hint="name the folder with the files")
    matchers = [
        (pattern, re.compile("(.*)".join(map(re.escape, pattern.split(ID))), re.DOTALL))
        for pattern in sorted(layout.patterns, key=len, reverse=True)
    ]
    videos: dict[str, dict[str, Path]] = {}
    unusable: dict[str, str] = {}
    others = []
    for relative in sorted(_files(folder)):
        for pattern, matcher in matchers:
            found = matcher.fullmatch(relative)
            if found is None:
                continue
            if not found[1] or found[1].endswith("/"):
                unusable[_printable(relative)] = "its name has nothing for the id"
            elif _printable(found[1]) != found[1]:
                unusable[_printable(relative)] = "its name is no valid text"
            else:
                videos.setdefault(found[1], {})[pattern] = folder / relative
            break
        else:
            others.append(_printable(relative))
    if not videos and not unusable:
        places = ", ".join(part.place for part in layout.parts)
        raise NothingMatchedError(
            f"{folder} holds no files of the layout {layout.name!r} ({places})",
            hint="choose another --layout, or say with --vision and --audio where the files are",
        )
    ordered = {id: videos[id] for id in sorted(videos)}
    return FoundVideos(folder, layout, ordered, unusable, tuple(others))


def _printable(name: str) -> str:
    """A name of a file that is no valid text, with its odd bytes written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of all files with forward slashes; links to folders are followed once."""
    seen = {folder.resolve()}
    waiting = [(folder, "")]
    while waiting:
        current, prefix = waiting.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    target = Path(entry.path).resolve()
                    if target not in seen:
                        seen.add(target)
                        waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                else:
                    yield prefix + entry.name
