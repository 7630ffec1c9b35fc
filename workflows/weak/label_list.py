"""A plain list of videos and what happens in them, as spreadsheets write it."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipeline.core.errors import ConfigError
from workflows.annotations import refuse_rows
from workflows.matching import SUFFIXES, list_some

LAYOUT = "write file,label[,label...] in each row"
HEADERS = ("file", "filename", "file name", "path", "video", "video_id", "name", "id")  # first cell
LABEL_HEADERS = ("label", "labels", "label1", "class", "classes")  # second cell of one
SEPARATORS = (",", ";", "\t")  # what spreadsheets write, by language and format
TRUTH_VALUES = frozenset(
    {"0", "1", "true", "false", "yes", "no"}
)  # of a table, no names of classes
EXCEL_HINT = "sep="  # a first line of Excel's, which names the separator
ENCODINGS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_label_list(path: Path) -> dict[str, list[str]]:
    """Labels of each video, in the order of the rows.

    ::

        file,label
        kitchen/monday.mp4,frying food,dog barking
        garden.mp4,dog barking

    Rows may be separated into cells by commas, semicolons or tabs; a cell that holds one is quoted.
    UTF-8, or UTF-16 with its mark. A header may stand first: its first cell is one of `HEADERS`, or
    its second one of `LABEL_HEADERS` and the first no media file. A video may come again with more
    labels; backslashes in its name become slashes.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read, has rows without a file or with a quote that does not end,
            names no file or no label, or is a table of zeros and ones.
    """
    videos: dict[str, list[str]] = {}
    problems = []
    for number, cells in _rows(path):
        if not cells[0]:
            problems.append(f"row {number}: labels {cells[1:]} without a file")
        elif long := next((cell for cell in cells if "\n" in cell), None):
            problems.append(
                f"row {number}: the cell {long.splitlines()[0]!r} goes on over "
                f"{len(long.splitlines())} lines, as if a quote were open"
            )
        else:
            known = videos.setdefault(cells[0].replace("\\", "/"), [])
            known += [cell for cell in cells[1:] if cell and cell not in known]
    if problems:
        raise refuse_rows(path, problems, hint=LAYOUT)
    _check(path, videos)
    return videos


def _check(path: Path, videos: dict[str, list[str]]) -> None:
    """Refuse what names no video or no class."""
    if not videos:
        raise ConfigError(f"{path} names no file", hint=LAYOUT)
    names = {label for labels in videos.values() for label in labels}
    if not names:
        raise ConfigError(
            f"{path} names no label, only files: {list_some(map(repr, videos))}", hint=LAYOUT
        )
    if {name.casefold() for name in names} <= TRUTH_VALUES:
        raise ConfigError(
            f"{path} has no names of classes but {list_some(map(repr, sorted(names)))}, like a "
            "table with a column for each class",
            hint="write the names of a video's classes after it: file,label[,label...]",
        )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are neither empty nor a header, with their numbers, cells stripped."""
    text = _text(path)
    first = 1
    separators: Iterable[str] = SEPARATORS
    if text[: len(EXCEL_HINT)].lower() == EXCEL_HINT:
        line, _, text = text.partition("\n")
        separators, first = [line.strip("\r")[len(EXCEL_HINT) :][:1] or ","], 2
    try:
        rows = max((_split(text, separator) for separator in separators), key=_fitness)
    except (ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"the labels {path} cannot be read as CSV: {error}") from error
    filled = [(number, cells) for number, cells in enumerate(rows, first) if any(cells)]
    yield from filled[1:] if filled and _is_header(filled[0][1]) else filled


def _is_header(cells: list[str]) -> bool:
    first, second = cells[0].lower(), "".join(cells[1:2]).lower()
    return first in HEADERS or (second in LABEL_HEADERS and not _is_media(first))


def _is_media(name: str) -> bool:
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in SUFFIXES


def _split(text: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in reader]


def _fitness(rows: list[list[str]]) -> tuple[int, int]:
    """Rows that begin with a media file, then rows of several cells: most by the true separator."""
    several = [row for row in rows if len(row) > 1]
    return sum(_is_media(row[0]) for row in several), len(several)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"the labels {path} do not exist", hint="check the path") from error
    except OSError as error:
        raise ConfigError(f"the labels {path} cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in ENCODINGS if raw.startswith(mark)), "utf-8-sig")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the labels {path} are no {encoding.removesuffix('-sig').upper()} text: byte "
            f"{raw[error.start]:#04x} at {error.start}",
            hint='save the table as "CSV UTF-8"',
        ) from error
