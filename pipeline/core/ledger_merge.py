"""Rows of many ledger files in one order, read as a stream.

No file is held open and none is held in memory: of each file that has not been reached in time its
first line is kept, of the others one block. So two thousand writers at work at once cost some 50 MB
and one file handle, however many rows they wrote.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.core.ledger_row import LedgerRow, mention, parse_row, time_in

BUFFER_BYTES = 32 << 20  # of all blocks together, as long as there are not too many files
LEAST_BLOCK = 1 << 14
LARGEST_BLOCK = 1 << 18
LONGEST_LINE = 1 << 20  # beyond it, a file of a stranger is no ledger
GONE = (errno.ENOENT, errno.ESTALE)  # the latter from network folders


class Entry(NamedTuple):
    """A row and its place in the order.

    Attributes:
        key: The latest time that its writer had written down until then: the row's own time,
            unless the writer's clock was set back.
        number: Place of the file in the list: rows of one key are in the order of their files.
        line: The row as it was written, without the end of the line.
        row: The row.
    """

    key: float
    number: int
    line: bytes
    row: LedgerRow


class GoneError(Exception):
    """A file that was to be read is no longer there.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


def merge_rows(
    paths: Sequence[Path], begins: Mapping[Path, int] | None = None, *, only: str | None = None
) -> Iterator[Entry]:
    """Rows of all files, by key; those of one file in the order in which they were written.

    What is appended to a file after the first row was asked for is left out. Lines that are torn,
    damaged or longer than a megabyte are left out.

    Args:
        paths: The files.
        begins: Bytes of files that are passed over.
        only: The item whose rows are wanted; None for all. The others' rows are not read further
            than to their time.

    Raises:
        GoneError: A file was removed.
        OSError: A file cannot be read.
    """
    block = min(max(BUFFER_BYTES // max(1, len(paths)), LEAST_BLOCK), LARGEST_BLOCK)
    begins = begins or {}
    return heapq.merge(
        *(_entries(path, n, block, begins.get(path, 0), only) for n, path in enumerate(paths))
    )


def _entries(path: Path, number: int, block: int, begin: int, only: str | None) -> Iterator[Entry]:
    key, mentioned = float("-inf"), b"" if only is None else mention(only)
    for line in _lines(path, block, begin):
        if mentioned not in line:
            key = max(key, time_in(line))
            continue
        row = parse_row(line)
        if row is not None:
            key = max(key, row.time)
            if only is None or row.id == only:
                yield Entry(key, number, line, row)


def _lines(path: Path, block: int, begin: int) -> Iterator[bytes]:
    """Lines of the file as it is now: the first by itself, the others in blocks."""
    try:
        with path.open("rb") as handle:
            end = os.fstat(handle.fileno()).st_size
            handle.seek(begin)
            first = handle.readline(min(max(0, end - begin), LONGEST_LINE))
        yield first.removesuffix(b"\n")
        position, rest = begin + len(first), b""
        while position < end:
            with path.open("rb") as handle:
                handle.seek(position)
                data = handle.read(min(block, end - position))
            if not data:  # shortened by somebody
                break
            position += len(data)
            *whole, rest = (rest + data).split(b"\n")
            rest = rest[:LONGEST_LINE]  # what is cut off is no row, and is not held
            del data  # each line is a copy
            yield from whole
        if rest:
            yield rest
    except OSError as error:
        if error.errno in GONE:
            raise GoneError(path) from error
        raise
