"""Exclusive locks by name between processes, which vanish with the process that holds them.

A lock is one byte of a lock file, so a million names need one file and leave nothing behind. They
work on local disks and on network file systems with locking; where a system has none (Windows, some
mounts), every lock is granted: callers must stay correct then, at the price of doing work twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.05
_PROBE = 1 << 62  # a byte behind those of all names

_guard = threading.Lock()
# A process loses all its locks on a file when it closes any descriptor of it: one per file, kept.
_descriptors: dict[tuple[int, str], int] = {}
_owners: dict[tuple[int, str, str], tuple[int, int]] = {}  # (process, file, name): (thread, depth)


class LockFile:
    """Locks that share one file.

    Where somebody has removed the file, or put another one in its place, the next lock that is
    asked for is one of the file that is there now, and those that this process holds become so too.

    Args:
        path: The file; made on first use. It stays empty and is never removed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = str(Path(path).absolute())

    @contextmanager
    def hold(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the lock ``name`` for a block; a thread may take its own lock again.

        Args:
            name: Any text.
            wait: Whether to wait until whoever else holds it lets go.

        Yields:
            Whether the lock is held; always True with ``wait``.
        """
        key = (os.getpid(), self._path, name)
        while not (granted := self._take(key)) and wait:
            time.sleep(POLL_S)
        try:
            yield granted
        finally:
            if granted:
                self._give_back(key)

    def is_held_elsewhere(self, name: str) -> bool:
        """Whether another process holds the lock ``name``; False where locks exclude nobody."""
        key = (os.getpid(), self._path, name)
        with _guard:
            if key in _owners:
                return False
            return self._is_taken(name)

    def is_held(self, name: str) -> bool:
        """Whether any process holds the lock ``name``, this one too; False as above.

        Those who only ask are never taken for holders, however many ask at once.
        """
        with _guard:
            return (os.getpid(), self._path, name) in _owners or self._is_taken(name)

    def keep(self, name: str) -> bool:
        """Hold the lock ``name`` until this process ends; returns whether it was free."""
        return self._take((os.getpid(), self._path, name))

    @property
    def excludes(self) -> bool:
        """Whether locks keep other processes out here; where not, every one of them is granted."""
        if fcntl is None:
            return False
        with _guard:
            try:
                fcntl.lockf(self._descriptor(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _PROBE)
                fcntl.lockf(self._descriptor(), fcntl.LOCK_UN, 1, _PROBE)
            except (BlockingIOError, PermissionError):  # somebody else is asking the same
                return True
            except OSError:
                return False
        return True

    def _take(self, key: tuple[int, str, str]) -> bool:
        thread = threading.get_ident()
        with _guard:
            owner, depth = _owners.get(key, (thread, 0))
            if owner != thread:
                return False
            if depth == 0 and not self._lock_byte(key[2]):
                return False
            _owners[key] = (thread, depth + 1)
            return True

    def _give_back(self, key: tuple[int, str, str]) -> None:
        with _guard:
            thread, depth = _owners.pop(key)
            if depth > 1:
                _owners[key] = (thread, depth - 1)
            else:
                self._free_byte(key[2])

    def _is_taken(self, name: str) -> bool:
        """Whether another process holds a byte; asked by a lock that any number can share."""
        if not self._lock_byte(name, shared=True):
            return True
        self._free_byte(name)
        return False

    def _lock_byte(self, name: str, *, shared: bool = False) -> bool:
        if fcntl is None:
            return True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._descriptor(), kind | fcntl.LOCK_NB, 1, _offset(name))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody else holds it
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def _free_byte(self, name: str) -> None:
        descriptor = _descriptors.get((os.getpid(), self._path))
        if descriptor is not None:  # a file that is gone is not made for this
            with suppress(OSError):  # granted where there are no locks
                fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, _offset(name))

    def _descriptor(self) -> int:
        """This process's descriptor of the file that has the name now."""
        key = (os.getpid(), self._path)
        before = _descriptors.get(key)
        if before is None or not _is_named(before, self._path):
            now = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            _descriptors[key] = now
            if before is not None:
                os.close(before)  # first: were it the same file, this would end the new locks
                self._take_again(now)
        return _descriptors[key]

    def _take_again(self, descriptor: int) -> None:
        """Lock what this process holds in a new file, as far as nobody there was quicker."""
        for process, path, name in _owners:
            if (process, path) == (os.getpid(), self._path):
                with suppress(OSError):
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(name))


def _is_named(descriptor: int, path: str) -> bool:
    """Whether an open file is the one at ``path``; also where the disk does not say."""
    try:
        return os.path.samestat(os.fstat(descriptor), Path(path).stat())
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno != errno.ESTALE  # as a network folder calls a file that was removed


def _offset(name: str) -> int:
    """Byte of the file that stands for ``name``; two names share one with a chance of 2^-62."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 2
