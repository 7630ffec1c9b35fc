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
        path: Where it is. It need not exist: reading it says so.
    """

    id: str
    path: Path


@dataclass(frozen=True, slots=True)
class _Found:
    """A file and where it comes from.

    Attributes:
        item: The file.
        origin: What named it, for error messages.
        single: It was named by itself; a longer id may be taken for it.
        named: Its id was given.
    """

    item: MediaItem
    origin: str
    single: bool = False
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
    found = [entry for text in inputs for entry in _expand(os.fspath(text))]
    items = _distinct(found)
    if not any(item.path.exists() for item in items):
        raise _nothing([os.fspath(text) for text in inputs], items)
    return items


def _expand(text: str) -> Iterator[_Found]:
    path = Path(text)
    if not text:
        raise UsageError("an input is empty")
    if text.startswith("@") and not path.exists():
        yield from _from_list(Path(text[1:]))
    elif path.is_dir():
        yield from _from_folder(path)
    elif path.suffix.lower() == ".csv":
        yield from _from_rows(path, _csv_rows(path))
    elif path.suffix.lower() == ".jsonl":
        yield from _from_rows(path, _json_rows(path))
    elif not path.exists() and glob.has_magic(text):
        yield from _from_glob(text)
    else:
        yield _Found(MediaItem(_text_id(path.name), path), text, single=True)


def _from_folder(folder: Path) -> Iterator[_Found]:
    for path in sorted(_walk(folder)):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            yield _Found(MediaItem(_text_id(path.relative_to(folder)), path), f"{folder}{os.sep}")


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; each folder is entered once, however many links lead to it."""
    entered = set()

    def refuse(error: OSError) -> None:
        raise UsageError(
            f"the folder {error.filename} cannot be read: {error.strerror}",
            hint="give yourself permission, or name the other folders",
        )

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield Path(place, name)


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
            yield _Found(MediaItem(_text_id(path.relative_to(base)), path), pattern)


def _from_list(path: Path) -> Iterator[_Found]:
    for number, line in enumerate(_read(path).splitlines(), 1):
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
    return _Found(MediaItem(id, path), place, named=named)


_ROOTS = ("/", "//", ".", "..")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(_read(path), newline=""))
    if "path" not in (reader.fieldnames or ()):
        raise UsageError(
            f"{path} has no column 'path'; its first line is {','.join(reader.fieldnames or ())!r}",
            hint="name the columns in the first line, for example: path,id",
        )
    try:
        for row in reader:
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: no object with a path")
        yield number, row


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


def _distinct(found: Sequence[_Found]) -> list[MediaItem]:
    """Each file once; single files of one name get longer ids; other clashes are refused."""
    by_id: dict[str, _Found] = {}
    seen: set[str] = set()
    for entry in _lengthened(found):
        path = _absolute(entry.item.path)
        if path in seen and not entry.named:
            continue
        other = by_id.setdefault(entry.item.id, entry)
        if _absolute(other.item.path) != path:
            raise UsageError(
                f"two files have the id {entry.item.id!r}: {other.item.path} "
                f"(from {other.origin}) and {entry.item.path} (from {entry.origin})",
                hint="give the folder above both, or a .csv list with a column id",
            )
        seen.add(path)
    return [entry.item for entry in by_id.values()]


def _lengthened(found: Sequence[_Found]) -> Iterator[_Found]:
    """Give single files that share a name their path as id."""
    paths: dict[str, set[str]] = {}
    for entry in found:
        if entry.single:
            paths.setdefault(entry.item.id, set()).add(_absolute(entry.item.path))
    for entry in found:
        if entry.single and len(paths[entry.item.id]) > 1:
            parts = [part for part in entry.item.path.parts if part not in _ROOTS]
            parts = [part for part in parts if part != entry.item.path.anchor]
            longer = MediaItem(_text_id(Path(*parts)), entry.item.path)
            yield _Found(longer, entry.origin, single=True)
        else:
            yield entry


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - without following links, but with .. taken out


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
        path.suffix.lower() in AUDIO_SUFFIXES
        for text in inputs
        if Path(text).is_dir()
        for path in _walk(Path(text))
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
