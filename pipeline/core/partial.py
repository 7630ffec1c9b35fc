"""A file that is written over several attempts and gets its name only when it is whole.

Beside the final path lie, until then, ``NAME.part`` with the beginning of the file and
``NAME.part.json`` with a note: what the writer wants to know when it goes on, and how many bytes
are safely on disk. Bytes behind those are not trusted: after a power cut a file may be longer than
what was written to it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.core.atomic import TEMP_SUFFIX, fsync_directory, write_json

NOTE_SUFFIX = ".json"
SAFE_EVERY = 64 << 20  # bytes after which what was written is made durable and noted as such
_DURABLE = "durable"
# What a note that is none makes of the code that reads it.
DAMAGED = (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError)


class PartialFile:
    """The unfinished beginning of a file.

    Only one writer at a time may use the shared name; callers hold a lock, or ask for a private
    one.

    Args:
        target: The final path; its folder exists.
        private: Use a name of this process's own, which nobody goes on with.
        safe_every: Bytes after which what was written is made durable.

    Attributes:
        target: The final path.
        private: Whether nobody else goes on with it.
        path: Where the beginning lies.
        note: What the writer noted; empty for a new file.
        size: Bytes that are there for good.
    """

    def __init__(
        self, target: Path, *, private: bool = False, safe_every: int = SAFE_EVERY
    ) -> None:
        name = f".{os.getpid()}.{uuid.uuid4().hex}" if private else target.name
        self.target = target
        self.private = private
        self.path = target.with_name(name + TEMP_SUFFIX)
        self._note_path = self.path.with_name(self.path.name + NOTE_SUFFIX)
        self._safe_every = safe_every
        self.note: dict[str, Any] = {}
        self.size = 0
        self._read()

    def sibling(self, suffix: str) -> PartialFile:
        """Another file in the making, for the same writer: ``NAME`` with ``suffix`` behind it."""
        target = self.target.with_name(self.target.name + suffix)
        return PartialFile(target, private=self.private, safe_every=self._safe_every)

    def restart(self, note: dict[str, Any] | None = None) -> None:
        """Begin anew, with another note; nothing of the old beginning is kept."""
        self.path.unlink(missing_ok=True)
        self.note, self.size = dict(note or {}), 0
        self._write_note()

    def annotate(self, **changes: Any) -> None:
        """Change values of the note."""
        self.note.update(changes)
        self._write_note()

    @contextmanager
    def appending(self) -> Iterator[Appender]:
        """Write on, behind what is there for good.

        However the block ends, what was written by then is kept; a killed process keeps all but
        the last ``safe_every`` bytes.

        Raises:
            OSError: The disk is full, or the file cannot be written.
        """
        with self.path.open("ab") as handle:
            handle.truncate(self.size)
            appender = Appender(handle, self._safe_every, self._keep)
            try:
                yield appender
            finally:
                appender.flush()

    def commit(self) -> Path:
        """Give the file its name; whoever finds it there finds all of it.

        Raises:
            OSError: It cannot be renamed.
        """
        with self.path.open("rb+") as handle:
            os.fsync(handle.fileno())
        self.path.replace(self.target)
        fsync_directory(self.target.parent)
        self._note_path.unlink(missing_ok=True)
        return self.target

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)
        self.note, self.size = {}, 0

    def _read(self) -> None:
        """Take up what is there; without a readable note it cannot be gone on with."""
        try:
            note = json.loads(self._note_path.read_text("utf-8"))
            durable = int(note.pop(_DURABLE))
            length = self.path.stat().st_size
        except (*DAMAGED, OSError):
            return
        self.note, self.size = note, max(0, min(durable, length))

    def _keep(self, count: int) -> None:
        self.size += count
        self._write_note()

    def _write_note(self) -> None:
        write_json(self._note_path, {**self.note, _DURABLE: self.size})


class Appender:
    """Writes behind the end of a `PartialFile`.

    Args:
        handle: Open at its end.
        safe_every: Bytes after which they are made durable.
        keep: Told of each count of bytes that has become durable.
    """

    def __init__(self, handle: BinaryIO, safe_every: int, keep: Any) -> None:
        self._handle = handle
        self._safe_every = safe_every
        self._keep = keep
        self._loose = 0

    def write(self, block: bytes) -> None:
        """Append a block.

        Raises:
            OSError: The disk is full.
        """
        self._handle.write(block)
        self._loose += len(block)
        if self._loose >= self._safe_every:
            self.flush()

    def flush(self) -> None:
        """Make all that was written durable."""
        if self._loose:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._keep(self._loose)
            self._loose = 0
