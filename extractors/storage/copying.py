"""The arrays of one video on their way to another file: read once, and checked on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from extractors.storage.feature_file import COPY_BYTES, FeatureFile, unreadable
from extractors.storage.records import Record, hash_arrays
from extractors.storage.safetensors_io import FormatFault, TensorPlace, TensorSource

# Shards have the arrays of wide types first, so those of narrow types are needed later: a video's
# masks and class scores wait in memory rather than that its file is opened again.
KEPT_BYTES = 2 << 20


class ChangedError(Exception):
    """What was copied is not what its record was made for: damaged, or another file by now."""


def copied(file: FeatureFile, record: Record) -> Iterator[TensorSource]:
    """The arrays of a video, to be written in the order of `write_tensors`.

    The file is opened once, twice where its narrow arrays are long.

    Args:
        file: The file that holds it.
        record: Its record.

    Raises:
        ChangedError: Now or while chunks are taken, those of the last array at the latest: the
            arrays are not those of the record.
        UnreadableError: While chunks are taken: the disk does not give out the file.
    """
    try:
        places = {name: file.tensors.place(name) for name in file.array_names(record.id)}
    except (KeyError, FormatFault) as error:
        raise ChangedError(record.id) from error
    copy = _Copy(file, record, places)
    for name, place in places.items():
        yield TensorSource(name, place.dtype.str, place.shape, copy.chunks(name))


class _Copy:
    """One video on its way."""

    def __init__(self, file: FeatureFile, record: Record, places: dict[str, TensorPlace]) -> None:
        self._file = file
        self._record = record
        self._places = places
        self._waiting = sorted(places, key=lambda name: -places[name].dtype.itemsize)
        self._handle: BinaryIO | None = None
        self._kept: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}

    def chunks(self, name: str) -> Iterator[bytes]:
        """Bytes of one array; to be asked for in the order in which they are written."""
        self._waiting.remove(name)
        given = False
        try:
            if name in self._kept:
                yield self._kept.pop(name)
            else:
                yield from self._read(name)
            given = True
        except FileNotFoundError as error:
            raise ChangedError(self._record.id) from error
        finally:
            if not given:
                self._close()
        if not self._waiting:
            self._compare()

    def _read(self, name: str) -> Iterator[bytes]:
        place, sha = self._places[name], hashlib.sha256()
        if self._handle is None:
            with self._disk():
                self._handle = self._file.path.open("rb")
        left = place.end - place.begin
        with self._disk():
            self._handle.seek(place.begin)
        while left:
            with self._disk():
                chunk = self._handle.read(min(left, COPY_BYTES))
            if not chunk:  # shorter than its header says
                raise ChangedError(self._record.id)
            sha.update(chunk)
            left -= len(chunk)
            yield chunk
        self._hashes[name] = sha.hexdigest()
        self._put_by(place.dtype.itemsize)

    def _put_by(self, width: int) -> None:
        """After the last array of one width, which others' arrays follow: keep the rest, close."""
        if any(self._places[name].dtype.itemsize == width for name in self._waiting):
            return
        rest = [self._places[name] for name in self._waiting]
        if sum(place.end - place.begin for place in rest) <= KEPT_BYTES:
            for name, place in zip(self._waiting, rest, strict=True):
                assert self._handle is not None
                with self._disk():
                    self._handle.seek(place.begin)
                    self._kept[name] = self._handle.read(place.end - place.begin)
                self._hashes[name] = hashlib.sha256(self._kept[name]).hexdigest()
        self._close()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Faults of the disk that is read are not those of the disk that is written."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(self._file.path, error) from error

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _compare(self) -> None:
        prefix = len(self._record.id) + 1
        table = {
            name[prefix:]: (place.dtype.str, place.shape, self._hashes[name])
            for name, place in self._places.items()
        }
        if hash_arrays(table) != self._record.sha256:
            raise ChangedError(self._record.id)
