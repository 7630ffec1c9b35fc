"""Which shard holds which video: an SQLite file derived from the shards.

Why SQLite: opening must not read a million records, and one must be found without reading the
others; the standard library brings it. The file is never changed in place: a new one is made beside
it and renamed, so readers need no locks, and it works on network file systems, where SQLite's own
locking does not. Whatever is wrong with it, it is made again from the headers of the shards: a
store may come from strangers, so what it says is taken for a hint only (where SQLite may look is
decided by tables that must be ours, and where a video lies by names of files in the store).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from extractors.storage.feature_file import UnreadableError, is_feature_file, read_feature_file
from extractors.storage.records import Record
from pipeline.core.atomic import atomic_path
from pipeline.core.errors import StoreError
from pipeline.core.locks import POLL_S, LockFile

SCHEMA_VERSION = 1
UNWRITABLE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)
CLOCK_TICK_NS = 2 * 10**9
TURN_S = 30.0  # beyond what copying the index of millions of videos takes
SCHEMA = """
CREATE TABLE shards (name TEXT PRIMARY KEY, size INTEGER NOT NULL, damage TEXT NOT NULL);
CREATE TABLE videos (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, shard TEXT NOT NULL,
    record TEXT NOT NULL) WITHOUT ROWID;
"""
TABLES = {statement.strip() for statement in SCHEMA.split(";")} - {""}
ADD_VIDEO = """
INSERT INTO videos VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    revision = excluded.revision, shard = excluded.shard, record = excluded.record
    WHERE excluded.revision > revision
"""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where a packed video is.

    Attributes:
        shard: The file that holds it.
        record: Its record.
    """

    shard: Path
    record: Record


class ShardIndex:
    """Finds packed videos; looks at the folder of shards before each answer.

    Args:
        root: Folder of the store.
        digest: Digest of the store's backbone.
        locks: By which processes that would write the same index wait for the first of them.
    """

    def __init__(self, root: Path, *, digest: str, locks: LockFile) -> None:
        self._digest = digest
        self._locks = locks
        self._shards = root / "shards"
        self._path = root / "index.sqlite"
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._seen: object = None  # state of the disk for which the index was found right
        self._local = threading.local()
        self._lock = threading.RLock()

    def get(self, id: str) -> Shelf | None:
        """Where a video is, None where it has not been packed."""
        find = "SELECT shard, record FROM videos WHERE id = ?"
        rows = self._query(find, (id,))
        if not all(_is_name(name) for name, _ in rows):  # no index of ours: it leads elsewhere
            self.rebuild()
            rows = self._query(find, (id,))
        for name, text in rows:
            with suppress(ValueError, TypeError, RecursionError):  # damaged: as good as none
                return Shelf(self._shards / name, Record.from_json(json.loads(text)))
        return None

    def ids(self) -> Iterator[str]:
        """Ids of all packed videos, sorted by code point."""
        for row in self._query("SELECT id FROM videos WHERE typeof(id) = 'text' ORDER BY id"):
            yield row[0]

    def shards(self) -> list[Path]:
        """All shards, damaged ones too."""
        return [self._shards / row[0] for row in self._query("SELECT name FROM shards")]

    def damaged(self) -> dict[Path, str]:
        """Shards whose header is damaged, and what is wrong with them."""
        rows = self._query("SELECT name, damage FROM shards WHERE damage != ''")
        return {self._shards / name: damage for name, damage in rows}

    def rebuild(self) -> None:
        """Make the index again from the headers of all shards."""
        with self._lock:
            self._write(self._listing(), {})

    def refresh(self) -> None:
        """Take in shards that were added or removed, by whatever process."""
        with self._lock:
            while (state := self._state()) != self._seen:
                listing = self._listing()
                known = self._known()
                if known == listing:
                    # A folder changed a moment ago may change again within one tick of its clock.
                    fresh = state[0] is not None and time.time_ns() - state[0] < CLOCK_TICK_NS
                    self._seen = None if fresh else state
                    return
                gone = known is None or not known.items() <= listing.items()
                with self._turn():
                    if self._state() == state:
                        # Where some are gone, older copies may count again: all are read.
                        self._write(listing, {} if gone or known is None else known)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait while another process writes the index, which is most likely the same one.

        Nothing depends on it: one that takes too long, or cannot be told, is not waited for.
        """
        if not os.access(self._shards.parent, os.W_OK):  # no index of others, and no lock of ours
            yield
            return
        end = time.monotonic() + TURN_S
        while True:
            with self._locks.hold("index", wait=False) as mine:
                if mine or time.monotonic() > end:
                    yield
                    return
            time.sleep(POLL_S)

    def _query(self, sql: str, values: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        self.refresh()
        if not self._path.exists():  # nothing was ever packed
            return []
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.DatabaseError:
            self.rebuild()
            return self._connection().execute(sql, values).fetchall()

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection to the newest index."""
        key = (os.getpid(), _identity(self._path))
        if getattr(self._local, "key", None) != key:
            self._local.connection = _connect(self._path)
            self._local.key = key
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _state(self) -> tuple[int | None, tuple[int, int] | None]:
        folder = _identity(self._shards)
        return None if folder is None else folder[0], _identity(self._path)

    def _listing(self) -> dict[str, int]:
        if not self._shards.is_dir():
            return {}
        with os.scandir(self._shards) as entries:
            files = filter(is_feature_file, entries)
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in files}

    def _known(self) -> dict[str, int] | None:
        """Shards in the index on disk; None where it cannot be used."""
        if not self._path.exists():
            return {}
        try:
            with closing(_connect(self._path)) as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                    return None
                made = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
                if {sql for (sql,) in made} != TABLES:
                    return None
                return dict(connection.execute("SELECT name, size FROM shards").fetchall())
        except sqlite3.DatabaseError:
            return None

    def _write(self, listing: Mapping[str, int], known: Mapping[str, int]) -> None:
        """Write a new index: what is ``known`` from the old one, the rest from the shards."""
        try:
            self._write_at(self._path, listing, known)
        except OSError as error:
            if not isinstance(error, PermissionError) and error.errno not in UNWRITABLE:
                raise
            self._move_out()
            self._write_at(self._path, listing, {})

    def _move_out(self) -> None:
        """Keep the index in a folder of our own: the store is read-only, or its disk is full."""
        self._private = tempfile.TemporaryDirectory(prefix="feature-index-")
        self._path = Path(self._private.name) / "index.sqlite"

    def _write_at(self, path: Path, listing: Mapping[str, int], known: Mapping[str, int]) -> None:
        with atomic_path(path) as temporary, _disk_errors(path):
            if known:
                shutil.copyfile(path, temporary)
            with closing(sqlite3.connect(temporary)) as connection:
                # The file is thrown away unless it gets finished: no journal is needed.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                if not known:
                    connection.executescript(SCHEMA)
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for name in sorted(listing.keys() - known.keys()):
                    self._add(connection, name, listing[name])
                connection.commit()

    def _add(self, connection: sqlite3.Connection, name: str, size: int) -> None:
        damage = ""
        try:
            found = read_feature_file(self._shards / name, digest=self._digest)
        except FileNotFoundError:
            return  # taken away since the folder was listed
        except UnreadableError:
            raise  # noted as damaged, its videos would be missed for good
        except StoreError as error:
            damage = error.message
        else:
            connection.executemany(
                ADD_VIDEO,
                [
                    (id, int(plain["revision"]), name, json.dumps(plain))
                    for id, plain in found.plain.items()
                ],
            )
        # Another process may have replaced the index since `known` was read from it: the copy can
        # hold the shard already.
        connection.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?)", (name, size, damage))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?immutable=1", uri=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raise what SQLite says about the disk as the system would have said it.

    Raises:
        OSError: The disk is full, or fails.
    """
    numbers = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}
    try:
        yield
    except sqlite3.OperationalError as error:
        number = numbers.get(error.sqlite_errorcode & 0xFF)  # the rest is detail
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_name(name: object) -> bool:
    """Whether something read from an index is the name of a file, and not a way out of a folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells one file or state of a folder from the next; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
