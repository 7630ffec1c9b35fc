"""Crash-safe writes: a file is either the old one or the new one, never a torn one."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMP_SUFFIX = ".part"  # readers of a directory skip names that end so
LEFTOVER_AGE_S = 3600.0  # without a write to it, nobody is at work on a temporary file any more


@contextmanager
def atomic_path(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``destination`` and move it there when the block succeeds.

    The data is flushed to disk before the rename and the directory after it, so that a crash or a
    power cut at any moment leaves either the old file or the whole new one.

    Args:
        destination: The final path; its directory is made when missing.

    Yields:
        A path in the same directory, to be written by the caller.
    """
    target = Path(destination)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
        fsync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(destination: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Like `atomic_path`, but yields the temporary file open for writing bytes."""
    with atomic_path(destination) as temporary, temporary.open("wb") as handle:
        yield handle


def fsync_directory(directory: Path) -> None:
    """Make renames inside ``directory`` durable; systems that cannot open directories skip it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the rename itself is still atomic
    finally:
        os.close(descriptor)


def write_bytes(destination: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_bytes(data)


def write_text(destination: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` atomically as UTF-8 with the newlines it has."""
    write_bytes(destination, text.encode("utf-8"))


def write_json(destination: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` atomically as JSON; NaN and infinities are refused."""
    write_text(destination, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def clean_temporaries(directory: str | os.PathLike[str], *, older_than_seconds: float) -> int:
    """Delete leftovers of killed writers below ``directory`` and return how many there were.

    Args:
        directory: Looked at recursively.
        older_than_seconds: Age below which a file may belong to a writer that still runs.
    """
    removed = 0
    now = time.time()
    for leftover in Path(directory).rglob(f".*{TEMP_SUFFIX}"):
        try:
            if now - leftover.stat().st_mtime >= older_than_seconds:
                leftover.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed
