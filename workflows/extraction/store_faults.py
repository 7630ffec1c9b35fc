"""When the disk or network folder of a store fails: one sentence, and a run that can go on later.

A store survives every fault of its disk, because nothing in it is changed in place. What is left
to do is to say what happened, and to end a run that no other video could save.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import EnvironmentFault

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
# What a network folder says while its server is away, and a disk that is breaking.
ABSENT = tuple(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "ENODEV", "ENXIO", "EREMOTEIO")
    if hasattr(errno, name)
)


def is_disk_fault(error: BaseException | None) -> bool:
    """Whether an error says that the disk is full or may not be written: no video escapes that."""
    return isinstance(error, OSError) and error.errno in (*FULL, errno.EROFS)


def disk_fault(error: OSError, store: Path) -> EnvironmentFault | None:
    """The error for the user; None for what says nothing about the store's disk."""
    words = f"{error.strerror} ({Path(str(error.filename)).name})" if error.filename else ""
    words = words or str(error.strerror)
    if error.errno in FULL:
        return EnvironmentFault(
            f"{store} cannot be written: {words}",
            hint="make room and run the same command again: it continues",
        )
    if error.errno in LOCKED:
        return EnvironmentFault(
            f"{store} cannot be written: {words}",
            hint="make the folder writable, or name another one with --out",
        )
    if error.errno in ABSENT:
        return EnvironmentFault(
            f"{store} cannot be reached: {words}",
            hint="check the disk or the network, then run the same command again: it continues",
        )
    return None


@contextmanager
def told(store: Path) -> Iterator[None]:
    """Raise faults of the store's disk as errors for the user.

    Raises:
        EnvironmentFault: In place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        fault = disk_fault(error, store)
        if fault is None:
            raise
        raise fault from error
