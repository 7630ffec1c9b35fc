"""What a feature store remembers of each video beside its arrays."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractors.features import Summary
from pipeline.core.errors import MediaError

SAMPLE_BYTES = 1 << 16
SAMPLES = 16  # spread over the file, head and tail included


@dataclass(frozen=True, slots=True)
class Source:
    """Fingerprint of a media file: enough to see that it changed, without reading it all.

    Attributes:
        size: Bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        sample: SHA-256 of 16 stretches of 64 KiB, the head and the tail among them; of the whole
            file where it is no longer than those.
    """

    size: int
    mtime_ns: int
    sample: str

    def matches(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file is still the one of this fingerprint.

        A file of the same size and time is taken for the same; where only the time differs (it was
        copied, restored or touched) the samples decide.

        Raises:
            MediaError: The file cannot be read.
        """
        size, mtime_ns = _status(Path(path))
        if size != self.size:
            return False
        return mtime_ns == self.mtime_ns or fingerprint(path).sample == self.sample

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as plain values."""
        return {"size": self.size, "mtime_ns": self.mtime_ns, "sample": self.sample}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Source:
        """Inverse of `to_json`."""
        return cls(int(value["size"]), int(value["mtime_ns"]), str(value["sample"]))


def fingerprint(path: str | os.PathLike[str]) -> Source:
    """Fingerprint of a file; reads one megabyte at most.

    Raises:
        MediaError: The file is missing, cannot be read, or is no file.
    """
    path = Path(path)
    size, mtime_ns = _status(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            if size <= SAMPLES * SAMPLE_BYTES:
                digest.update(handle.read())
            else:
                for number in range(SAMPLES):
                    handle.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                    digest.update(handle.read(SAMPLE_BYTES))
    except OSError as error:
        raise _unreadable(path, error) from error
    return Source(size, mtime_ns, digest.hexdigest())


def _status(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; a pipe would be waited for, a device read without end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(path, "is a folder, not a media file", hint="name the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(path, "is a pipe or a device, not a file", hint="save it to a file")
    return status.st_size, status.st_mtime_ns


def _unreadable(path: Path, error: OSError | ValueError) -> MediaError:
    if isinstance(error, FileNotFoundError):
        return MediaError(path, "does not exist", hint="check the spelling of the path")
    if isinstance(error, PermissionError):
        return MediaError(
            path, "cannot be read: permission denied", hint="give yourself read permission"
        )
    return MediaError(path, f"cannot be read: {error}")


@dataclass(frozen=True, slots=True)
class Record:
    """What a store knows of one video.

    Attributes:
        id: Name of the video in the store.
        revision: 0 for the first extraction, one more for each that replaced an older one.
        summary: Duration, steps, coverage, notes.
        source: Fingerprint of the media file; None where the features came from elsewhere.
        sha256: Hash of the arrays, `hash_arrays`.
    """

    id: str
    revision: int
    summary: Summary
    source: Source | None
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, sealed with a hash of its own."""
        value = self._plain()
        return {**value, "seal": _seal(value)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Record:
        """Inverse of `to_json`.

        Raises:
            ValueError: The record was changed after it was sealed.
        """
        try:
            source = value["source"]
            record = cls(
                id=value["id"],
                revision=int(value["revision"]),
                summary=Summary.from_json(value["summary"]),
                source=None if source is None else Source.from_json(source),
                sha256=value["sha256"],
            )
            sealed = _seal(record._plain()) == value["seal"]
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError("a record is damaged") from error
        if not _is_plain(record):  # a seal is no secret: strangers can make one
            raise ValueError("a record holds what none of ours does")
        if not sealed:
            raise ValueError(f"the record of {record.id!r} is damaged")
        return record

    def _plain(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "revision": self.revision,
            "summary": self.summary.to_json(),
            "source": None if self.source is None else self.source.to_json(),
            "sha256": self.sha256,
        }


def hash_arrays(arrays: Mapping[str, tuple[str, tuple[int, ...], str]]) -> str:
    """Hash of a video's arrays that does not depend on where they lie in a file.

    Args:
        arrays: Type code, shape and SHA-256 of the bytes, by array name.

    Returns:
        SHA-256 in hexadecimal digits.
    """
    table = [[name, dtype, list(shape), sha] for name, (dtype, shape, sha) in arrays.items()]
    return hashlib.sha256(json.dumps(sorted(table)).encode()).hexdigest()


def _is_plain(record: Record) -> bool:
    """Whether the values of a record are of the kinds that they say they are."""
    summary = record.summary
    numbers = [summary.duration, *summary.coverage.values()]
    texts = [record.id, record.sha256, summary.status, *summary.notes, *summary.coverage]
    texts += [*summary.readers, *summary.readers.values()]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int | float) and 0 <= number < math.inf for number in numbers)
        and summary.steps >= 0
    )


def _seal(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
