"""From what a user names to a list of media files, each with an id that stays the same.

An id is a relative path with forward slashes: below the folder that was given, below the fixed part
of a glob, or as a list has it; for a file named by itself, its name.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.core.errors import NothingMatchedError, UsageError

_VIDEO = """.mp4 .m4v .mov .mkv .webm .avi .ts .m2ts .mts .mpg .mpeg .vob .ogv .flv .f4v .wmv .asf
.3gp .3g2 .mxf .dv .divx .qt .rm .rmvb"""
_AUDIO = """.wav .flac .mp3 .m4a .aac .ogg .oga .opus .wma .aif .aiff .ac3 .mka .amr .caf"""
VIDEO_SUFFIXES = frozenset(_VIDEO.split())
AUDIO_SUFFIXES = frozenset(_AUDIO.split())
SHOWN = 3  # missing files that an error names


@dataclass(frozen=True, slots=True)
class MediaItem:
    """A media file to work on.

    Attributes:
        id: Its name in stores and results.
        name: Its path as text; hundreds of thousands of `Path` objects would take most of the
            memory of a run that finds everything done.
    """

    id: str
    name: str

    @property
    def path(self) -> Path:
        """Where it is. It need not exist: reading it says so."""
        return Path(self.name)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file and where it comes from.

    Attributes:
        item: The file.
        origin: What named it, for error messages.
        named: Its id was given.
    """

    item: MediaItem
    origin: str
    named: bool = False


def find_media(inputs: Sequence[str | os.PathLike[str]]) -> list[MediaItem]:
    """Find the media files that a user names.

    Args:
        inputs: Each is one of

            * a file, of any suffix;
            * a folder, searched recursively for video files; names with a leading dot are left
              out, links to folders are followed once;
            * a glob (``*``, ``?``, ``[...]``, ``**``); a pattern without a suffix of its own takes
              video and sound files only;
            * ``@list.txt``: a path per line; empty lines and lines that start with # are left out;
            * a ``.csv`` file with a column ``path``, or a ``.jsonl`` file of objects with
              ``path``; in both, ``id`` may be given.

            Relative paths in lists are looked for beside the list, then in the current folder.

    Returns:
        The files in the order of the inputs, folders and globs sorted; each file once. Files that
        were named and do not exist are among them.

    Raises:
        NothingMatchedError: No input names a file that exists.
        UsageError: Two files have one id, a list cannot be read, or a folder.
    """
    items = _distinct([os.fspath(text) for text in inputs])
    if not any(item.path.exists() for item in items):
        raise _nothing([os.fspath(text) for text in inputs], items)
    return items


def _listed(text: str) -> Iterator[_Found] | None:
    """What a folder, a list or a glob names; None for a file that is named by itself."""
    path = Path(text)
    if not text:
        raise UsageError("an input is empty")
    if text.startswith("@") and not path.exists():
        return _from_list(Path(text[1:]))
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() == ".csv":
        return _from_rows(path, _csv_rows(path))
    if path.suffix.lower() == ".jsonl":
        return _from_rows(path, _json_rows(path))
    if not path.exists() and glob.has_magic(text):
        return _from_glob(text)
    return None


def _from_folder(folder: Path) -> Iterator[_Found]:
    origin = f"{folder}{os.sep}"
    for name in _walk(folder):
        path = Path(name)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            yield _Found(MediaItem(_text_id(path.relative_to(folder)), name), origin)


def _walk(folder: Path) -> Iterator[str]:
    """Files below a folder, sorted as paths are, without holding more than the way to the next.

    Each folder is entered once, however many links lead to it.
    """
    entered: set[tuple[int, int]] = set()
    way = [iter(_listing(folder, entered))]
    while way:
        for path, is_folder in way[-1]:
            if is_folder:
                way.append(iter(_listing(path, entered)))
                break
            yield str(path)
        else:
            way.pop()


def _listing(folder: Path, entered: set[tuple[int, int]]) -> Iterable[tuple[Path, bool]]:
    """What lies in a folder, sorted, and what of it are folders; nothing where it was entered."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in entered:
            return []
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            found = sorted((entry.name, entry.is_dir()) for entry in shown)
    except OSError as error:
        raise UsageError(
            f"the folder {folder} cannot be read: {error.strerror}",
            hint="give yourself permission, or name the other folders",
        ) from error
    return ((folder / name, is_folder) for name, is_folder in found)


def _from_glob(pattern: str) -> Iterator[_Found]:
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    base = Path(*parts[:fixed])
    suffix = Path(pattern).suffix
    any_suffix = len(suffix) > 1 and not glob.has_magic(suffix)
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - absolute ones too
        path = Path(name)
        known = path.suffix.lower() in VIDEO_SUFFIXES | AUDIO_SUFFIXES
        if path.is_file() and (any_suffix or known):
            yield _Found(MediaItem(_text_id(path.relative_to(base)), str(path)), pattern)


def _from_list(path: Path) -> Iterator[_Found]:
    for number, line in enumerate(_lines(path), 1):
        name = line.strip()
        if name and not name.startswith("#"):
            yield _from_row(path, number, name, None)


def _from_rows(path: Path, rows: Iterable[tuple[int, dict[str, object]]]) -> Iterator[_Found]:
    for number, row in rows:
        name, id = row.get("path"), row.get("id")
        if not isinstance(name, str) or not name:
            raise UsageError(f"{path}, line {number}: no path", hint="each row needs a path")
        if id is not None and not isinstance(id, str | int):
            raise UsageError(f"{path}, line {number}: the id {id!r} is no text")
        yield _from_row(path, number, name, None if id in (None, "") else str(id))


def _from_row(manifest: Path, number: int, name: str, id: str | None) -> _Found:
    path = Path(name)
    if not path.is_absolute():
        beside = manifest.parent / path
        path = path if path.exists() and not beside.exists() else beside
    place, named = f"{manifest}, line {number}", id is not None
    if id is None:
        # As written, without what would lead out of a folder: it stays when the list grows.
        parts = [part for part in PurePosixPath(Path(name).as_posix()).parts if part not in _ROOTS]
        id = _text_id("/".join(part for part in parts if not part.endswith(":\\")))
    elif id.startswith("/") or ".." in id.split("/"):
        raise UsageError(
            f"{place}: the id {id!r} leads out of a folder", hint="use a relative path"
        )
    return _Found(MediaItem(id, str(path)), place, named=named)


_ROOTS = ("/", "//", ".", "..")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(_read(path), newline=""))
    try:
        if "path" not in (reader.fieldnames or ()):
            raise UsageError(
                f"{path} has no column 'path'; its first line is "
                f"{','.join(reader.fieldnames or ())!r}",
                hint="name the columns in the first line, for example: path,id",
            )
        for row in reader:
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: no object with a path")
        yield number, row


def _lines(path: Path) -> Iterable[str]:
    return io.StringIO(_read(path), newline=None)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"the list {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read: {error}") from error


def _text_id(path: str | os.PathLike[str]) -> str:
    """A path as text with forward slashes; bytes that are no UTF-8 as backslash and digits."""
    text = Path(path).as_posix()
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _distinct(inputs: Sequence[str]) -> list[MediaItem]:
    """Each file once; single files of one name get longer ids; other clashes are refused."""
    by_id: dict[str, MediaItem] = {}
    seen: set[str] = set()
    alone = len(inputs) == 1 and Path(inputs[0]).is_dir()  # a folder holds no file twice
    for entry in _expand(inputs):
        item, path = entry.item, _absolute(entry.item.name)
        if path in seen and not entry.named:
            continue
        other = by_id.setdefault(item.id, item)
        if _absolute(other.name) != path:
            first = next((same for same in _expand(inputs) if same.item == other), entry)
            raise UsageError(
                f"two files have the id {item.id!r}: {other.path} "
                f"(from {first.origin}) and {item.path} (from {entry.origin})",
                hint="give the folder above both, or a .csv list with a column id",
            )
        if not alone:
            seen.add(path)
    return list(by_id.values())


def _expand(inputs: Sequence[str]) -> Iterator[_Found]:
    """What the inputs name, in their order; files that share a name get their path as id."""
    sources = [(text, _listed(text)) for text in inputs]
    paths: dict[str, set[str]] = {}
    for text, listed in sources:
        if listed is None:
            paths.setdefault(Path(text).name, set()).add(_absolute(text))
    for text, listed in sources:
        if listed is not None:
            yield from listed
        else:
            yield _by_itself(Path(text), text, alone=len(paths[Path(text).name]) == 1)


def _by_itself(path: Path, text: str, *, alone: bool) -> _Found:
    """A file named by itself."""
    parts = [part for part in path.parts if part not in _ROOTS and part != path.anchor]
    id = path.name if alone else Path(*parts)
    return _Found(MediaItem(_text_id(id), str(path)), text)


def _absolute(path: str) -> str:
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay, .. is taken out
    return path if absolute == path else absolute  # one text where two would say the same


def _nothing(inputs: Sequence[str], items: Sequence[MediaItem]) -> NothingMatchedError:
    if items:
        missing = ", ".join(str(item.path) for item in items[:SHOWN])
        more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        verb = "does" if len(items) == 1 else "do"
        return NothingMatchedError(
            f"{missing}{more} {verb} not exist", hint="check the spelling of the path"
        )
    named = ", ".join(inputs)
    sounds = sum(
        Path(name).suffix.lower() in AUDIO_SUFFIXES
        for text in inputs
        if Path(text).is_dir()
        for name in _walk(Path(text))
    )
    if sounds:
        return NothingMatchedError(
            f"no video file in {named}, but {sounds} sound files",
            hint=f"name them with a glob, such as '{Path(inputs[0]) / '**' / '*.wav'}'",
        )
    return NothingMatchedError(
        f"no video file in {named}",
        hint="a folder is searched for " + " ".join(sorted(VIDEO_SUFFIXES)[:6]) + " ...; other"
        " files can be named one by one",
    )
