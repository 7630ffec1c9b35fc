"""An append-only record of attempts: JSON lines, one file per writer, so writers never share one.

The ledger on disk is the truth about a long job: the process that schedules it may die. It is read
as a stream, and files of writers that have ended are joined into few.

How readers stay right while files are joined: the joined file is written and renamed, then the file
``generation`` is changed, then what was joined is removed. A reader lists the folder between two
looks at ``generation`` and lists again where it changed, so it finds each row in the old file, in
the joined one, or in both. The joined file holds the same lines in the same order with the same
places in it, so a reader that meets a row twice knows it, and one that finds a file gone begins
again with the new list and leaves out what lies before the place that it had reached.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.core.atomic import atomic_file, fsync_directory, write_text
from pipeline.core.errors import StoreError
from pipeline.core.ledger_merge import Entry, GoneError, merge_rows
from pipeline.core.ledger_row import LedgerRow, Outcome, format_row
from pipeline.core.locks import LockFile

SUFFIX = ".jsonl"
JOINED = re.compile(r"joined-[0-9a-f]{32}\.jsonl")  # writers' names end with shorter digits
JOIN_FILES = 16  # files from which on it is worth joining them
TAIL_BYTES = 1 << 16  # some two hundred rows: more than one process has at hand
GENERATION_BYTES = 64
RELIST_S = 0.1
RELISTS = 100  # network folders may show for seconds what is gone

__all__ = ["Ledger", "LedgerRow", "Outcome"]


class Ledger:
    """Rows below one directory; this writer appends to a file of its own.

    Args:
        directory: Holds one ``*.jsonl`` file per writer; made on the first append.
        locks: Tell which writers live; without them, files are never joined.
    """

    def __init__(self, directory: str | os.PathLike[str], *, locks: LockFile | None = None) -> None:
        self.directory = Path(directory)
        self._locks = locks
        self._own: Path | None = None
        self._torn = False
        self._turn = threading.Lock()

    def append(self, row: LedgerRow) -> None:
        """Add a row and flush it to disk. Any number of threads may do so at once.

        Raises:
            OSError: The disk is full or fails; the row does not count then.
        """
        with self._turn:
            path = self._own_path()
            # What a full disk left of an earlier line must not spoil this one.
            line = b"\n" * self._torn + format_row(row)
            self._torn = True
            with path.open("ab") as handle:
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
            self._torn = False

    def rows(self, only: str | None = None) -> Iterator[LedgerRow]:
        """All rows of all writers, each once; a torn last line of a killed writer is skipped.

        Rows of one writer come in the order in which they were written, whatever its clock did.
        Those of several are ordered by time, where a row counts as no older than what its writer
        wrote before it: after a clock was set back, the writer's rows come where the latest of them
        stands, until the clock has caught up. Hosts whose clocks differ are taken at their word.

        Rows that are appended while this runs may be among them or not. Memory does not grow with
        the number of rows; see `pipeline.core.ledger_merge`.

        Args:
            only: The item whose rows are wanted, which are found much faster; None for all.

        Raises:
            OSError: A file cannot be read.
            StoreError: Something there is no file in itself; see `_files`.
        """
        reached, met, waited = float("-inf"), set[bytes](), 0
        while True:
            try:
                for entry in merge_rows(self._files(), only=only):
                    if entry.key > reached:
                        reached, met = entry.key, set()
                    if entry.key == reached and entry.line not in met:
                        met.add(entry.line)
                        yield entry.row
            except GoneError as gone:  # joined with others
                if gone.path in self._files():
                    waited += 1
                    if waited > RELISTS:
                        raise FileNotFoundError(f"{gone.path} is listed but not there") from gone
                    time.sleep(RELIST_S)
            else:
                return

    def latest(self, *outcomes: Outcome) -> dict[str, LedgerRow]:
        """The newest row of each item.

        Args:
            outcomes: Only items whose newest row has one of these are held in memory and returned;
                none for all items.
        """
        found: dict[str, LedgerRow] = {}
        for row in self.rows():
            if not outcomes or row.outcome in outcomes:
                found[row.id] = row
            else:
                found.pop(row.id, None)
        return found

    def ends(self) -> dict[Path, int]:
        """Size of each file now: what is written later is told by `recent`."""
        return _sizes(self._files())

    def recent(self, since: Mapping[Path, int]) -> dict[str, LedgerRow]:
        """The newest row of each item, of rows that writers at work have just written.

        However long the ledger is, of each writer no more than the last 64 KiB are looked at, and
        nothing of what was there before.

        Args:
            since: What `ends` said before.
        """
        for _ in range(RELISTS):
            sizes = _sizes(path for path in self._files() if not _is_joined(path))
            begins = {
                path: max(since.get(path, 0), size - TAIL_BYTES) for path, size in sizes.items()
            }
            grown = [path for path, size in sizes.items() if size > begins[path]]
            try:
                return {entry.row.id: entry.row for entry in merge_rows(grown, begins)}
            except GoneError:  # its writer has ended, and somebody joins it with others
                time.sleep(RELIST_S)
        return {}

    def join(self, *, min_files: int = JOIN_FILES) -> int:
        """Put the files of writers that have ended into one; one process at a time may do so.

        A writer has ended when its lock is free: processes hold theirs as long as they live, on
        whatever host. Where locks do not exclude other processes nothing is joined. Killed at any
        moment, it loses no row and readers see none twice.

        Args:
            min_files: Do nothing below this number of files.

        Returns:
            Number of files that were joined.
        """
        if self._locks is None or not self._locks.excludes:
            return 0
        try:
            return self._join(min_files)
        except (GoneError, FileNotFoundError):  # another host is at it, whose locks do not reach us
            return 0

    def _join(self, min_files: int) -> int:
        sizes = {path: path.stat().st_size for path in self._files() if self._has_ended(path)}
        chosen = _worth_joining(sizes)
        if len(chosen) < max(2, min_files):
            return 0
        with atomic_file(self.directory / f"joined-{uuid.uuid4().hex}{SUFFIX}") as handle:
            for entry in _distinct(merge_rows(chosen)):
                handle.write(entry.line + b"\n")
        write_text(self.directory / "generation", uuid.uuid4().hex + "\n")
        for path in chosen:
            if path.stat().st_size == sizes[path]:  # else its lock did not mean what it says
                path.unlink()
        return len(chosen)

    def _own_path(self) -> Path:
        """The file of this writer, which is one process: what forks gets another."""
        prefix = _own_prefix()
        if self._own is None or not self._own.name.startswith(prefix):
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / f"{prefix}{uuid.uuid4().hex[:8]}{SUFFIX}"
            if self._locks is not None:
                self._locks.keep(_lock_name(path))  # before there is a file that could be joined
            path.touch()
            fsync_directory(self.directory)
            self._own, self._torn = path, False
        return self._own

    def _has_ended(self, path: Path) -> bool:
        assert self._locks is not None
        if _is_joined(path):
            return True
        if path.name.startswith(_own_prefix()):  # locks do not tell a process from itself
            return False
        with self._locks.hold(_lock_name(path), wait=False) as free:
            return free

    def _files(self) -> list[Path]:
        """All files, sorted by name; see the head of this module.

        Raises:
            StoreError: One is a link, which leads where it likes, or a pipe, which never ends: the
                ledger may come from a stranger.
        """
        while True:
            generation = self._generation()
            try:
                with os.scandir(self.directory) as entries:
                    names = sorted(_checked(entry) for entry in entries if _is_ledger_file(entry))
            except FileNotFoundError:
                return []
            if self._generation() == generation:
                return [self.directory / name for name in names]

    def _generation(self) -> str:
        path = self.directory / "generation"
        try:
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode):
                raise _no_file(path, is_link=stat.S_ISLNK(mode))
            with path.open("rb") as handle:
                return handle.read(GENERATION_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""


def _is_ledger_file(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(SUFFIX) and not entry.name.startswith(".")


def _checked(entry: os.DirEntry[str]) -> str:
    """Name of an entry that is a file in itself."""
    if not entry.is_file(follow_symlinks=False):
        raise _no_file(Path(entry.path), is_link=entry.is_symlink())
    return entry.name


def _no_file(path: Path, *, is_link: bool) -> StoreError:
    what = "a link" if is_link else "no file"
    return StoreError(
        f"{path} is {what}, a ledger holds plain files only",
        hint="put the file itself there, or remove it",
    )


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """Sizes of files, but of those that have been joined with others meanwhile."""
    sizes = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    return sizes


def _is_joined(path: Path) -> bool:
    return JOINED.fullmatch(path.name) is not None


def _own_prefix() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-"


def _lock_name(path: Path) -> str:
    return f"ledger {path.name}"


def _worth_joining(sizes: dict[Path, int]) -> list[Path]:
    """Files of writers, and joined files that are small beside what is joined with them.

    So a row is copied as often as the logarithm of the number of joins, not at each.
    """
    chosen, total = [], 0
    order = sorted(sizes, key=lambda path: (_is_joined(path), sizes[path]))
    for path in order:
        if _is_joined(path) and sizes[path] > total:
            break
        chosen.append(path)
        total += sizes[path]
    return sorted(chosen)


def _distinct(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Leave out rows that are in two files, as a killed process that joined them leaves them."""
    key, met = float("-inf"), set[bytes]()
    for entry in entries:
        if entry.key != key:
            key, met = entry.key, set()
        if entry.line not in met:
            met.add(entry.line)
            yield entry
