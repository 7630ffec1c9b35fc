"""One file of a feature store: some videos' arrays, and their records in its metadata.

A finished video is such a file with one video, a shard one with many. Arrays are named
``<id>/<array>``, ids have no limits but to be text.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from extractors.features import ARRAY_TYPES
from extractors.storage.records import Record, hash_arrays
from extractors.storage.safetensors_io import (
    DAMAGED,
    FormatFault,
    TensorFile,
    TensorSource,
    read_header,
    write_tensors,
)
from pipeline.core.atomic import atomic_file
from pipeline.core.errors import StoreError

FORMAT_NAME = "davel-features"
FORMAT_VERSION = 1
COPY_BYTES = 1 << 22
LARGEST_REVISION = (1 << 63) - 1  # of the index
REPAIR_HINT = "extract again what the store's repair() names"


class UnreadableError(StoreError):
    """A file could not be read just now: nothing is known of what it holds.

    Damage is repaired by making features again; this may pass by itself, as on a network folder
    whose server is away.
    """


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """A file whose header can be read.

    Attributes:
        tensors: Its header.
        plain: Record of each video as plain values, by id; `record` checks one. Many records in a
            shard are never asked for, and checking all would take most of the time of opening it.
    """

    tensors: TensorFile
    plain: Mapping[str, Mapping[str, Any]]

    @property
    def path(self) -> Path:
        """The file."""
        return self.tensors.path

    @property
    def ids(self) -> list[str]:
        """The videos in the file."""
        return list(self.plain)

    def record(self, id: str) -> Record:
        """Record of one video.

        Raises:
            KeyError: The video is not in this file.
            StoreError: Its record is damaged.
        """
        try:
            return Record.from_json(self.plain[id])
        except ValueError as error:
            raise StoreError(f"{self.path} is damaged: {error}", hint=REPAIR_HINT) from error

    def arrays(self, id: str) -> dict[str, NDArray[Any]]:
        """Arrays of one video by name, mapped into memory and read-only.

        Raises:
            KeyError: The video is not in this file.
            StoreError: The header is damaged.
        """
        mapped, names = self.tensors.map(), self.array_names(id)
        try:
            return {name[len(id) + 1 :]: self.tensors.array(name, mapped) for name in names}
        except FormatFault as error:
            raise StoreError(f"{self.path} is damaged: {error}", hint=REPAIR_HINT) from error

    def is_sound(self, id: str) -> bool:
        """Whether the arrays of a video are those that its record was made for.

        Raises:
            KeyError: The video is not in this file.
            StoreError: Its record is damaged.
            UnreadableError: The disk did not give out its arrays.
        """
        try:
            names = self.array_names(id)
            with self.path.open("rb") as handle:
                hashed = {name[len(id) + 1 :]: self._hashed(handle, name) for name in names}
        except FormatFault as error:
            raise StoreError(f"{self.path} is damaged: {error}", hint=REPAIR_HINT) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unreadable(self.path, error) from error
        return hash_arrays(hashed) == self.record(id).sha256

    def fits(self, id: str, rows: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a video has the arrays of a backbone, of the types and lengths that they must be.

        Args:
            id: The video.
            rows: Shape of one row of each array, `extractors.shapes.array_shapes`.

        Raises:
            KeyError: The video is not in this file.
            StoreError: Its record is damaged.
            FormatFault: The header is damaged.
        """
        steps = self.record(id).summary.steps
        places = {name[len(id) + 1 :]: self.tensors.place(name) for name in self.array_names(id)}
        return {name: (place.dtype.str, place.shape) for name, place in places.items()} == {
            name: (ARRAY_TYPES[name], (steps, *shape)) for name, shape in rows.items()
        }

    def _hashed(self, handle: BinaryIO, name: str) -> tuple[str, tuple[int, ...], str]:
        """Type, shape and hash of one array.

        It is read and not mapped: a mapped page that the disk does not give out ends the process.
        """
        place, sha = self.tensors.place(name), hashlib.sha256()
        handle.seek(place.begin)
        left = place.end - place.begin
        while left and (chunk := handle.read(min(left, COPY_BYTES))):
            sha.update(chunk)
            left -= len(chunk)
        return place.dtype.str, place.shape, sha.hexdigest()

    def array_names(self, id: str) -> list[str]:
        """Names in the file of a video's arrays.

        Raises:
            KeyError: The video is not in this file.
        """
        names = [f"{id}/{array}" for array in ARRAY_TYPES if f"{id}/{array}" in self.tensors.fields]
        if not names:
            raise KeyError(id)
        return names


def read_feature_file(path: Path, *, digest: str) -> FeatureFile:
    """Open a file of a store and check its header.

    Args:
        path: The file.
        digest: Digest of the store's backbone.

    Raises:
        StoreError: The file is damaged, of another version, or of another backbone.
        UnreadableError: The disk or the network folder did not answer, or it is a link.
        FileNotFoundError: There is no such file.
    """
    _refuse_link(path)
    try:
        tensors = read_header(path)
        if tensors.metadata["format"] != FORMAT_NAME:
            raise FormatFault("it holds something else than features")
        version = int(tensors.metadata["version"])
        plain = _plain_records(tensors.metadata["records"])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (FormatFault, *DAMAGED) as error:
        reason = error if isinstance(error, FormatFault) else "its header is damaged"
        raise StoreError(f"{path} is damaged: {reason}", hint=REPAIR_HINT) from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}",
            hint="update the program",
        )
    if tensors.metadata["digest"] != digest:
        raise StoreError(
            f"{path} was made by another backbone (digest {tensors.metadata['digest']}, "
            f"the store has {digest})",
            hint="move it out of the store",
        )
    return FeatureFile(tensors, plain)


def _plain_records(text: str) -> dict[str, Mapping[str, Any]]:
    """Records by id, checked as far as the index relies on them."""
    plain: dict[str, Mapping[str, Any]] = {value["id"]: value for value in json.loads(text)}
    for id, value in plain.items():
        id.encode()  # neither a number nor half a character
        revision = value["revision"]
        if not (isinstance(revision, int) and 0 <= revision <= LARGEST_REVISION):
            raise FormatFault("a record is damaged")
    return plain


def _refuse_link(path: Path) -> None:
    """Refuse what is no file in itself: a stranger's link leads where it likes, a pipe never ends.

    It is told and not passed over, as features behind an honest link would be missed otherwise.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "no file"
        raise UnreadableError(
            f"{path} is {what}, a store holds plain files only",
            hint="put the file itself there, or remove it; cp -rL copies a store and what its "
            "links lead to",
        )


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """The error for a file that the disk does not give out."""
    return UnreadableError(
        f"{path} cannot be read: {error.strerror}",
        hint="check the disk or the network folder; if it stays, move the file away and extract "
        "again what it held",
    )


def write_feature_file(
    path: Path, *, digest: str, records: Sequence[Record], sources: Iterable[TensorSource]
) -> None:
    """Write a file of a store atomically.

    Args:
        path: Where to.
        digest: Digest of the store's backbone.
        records: The videos in it, in the order they are to have.
        sources: All their arrays, named ``<id>/<array>``.
    """
    with atomic_file(path) as handle:
        write_features(handle, digest=digest, records=records, sources=sources)


def write_features(
    handle: BinaryIO, *, digest: str, records: Sequence[Record], sources: Iterable[TensorSource]
) -> None:
    """Write what a file of a store holds; see `write_feature_file`."""
    metadata = {
        "format": FORMAT_NAME,
        "version": str(FORMAT_VERSION),
        "digest": digest,
        "records": json.dumps([record.to_json() for record in records], sort_keys=True),
    }
    write_tensors(handle, sources, metadata)


def file_name(id: str) -> str:
    """Name of the small file of one video: ids may hold characters that file systems do not."""
    return hashlib.sha256(id.encode()).hexdigest()[:32] + ".safetensors"


def pieces(array: NDArray[Any]) -> Iterator[memoryview]:
    """An array's bytes in pieces of a few megabytes."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for low in range(0, flat.size, COPY_BYTES):
        yield flat[low : low + COPY_BYTES].data


def is_feature_file(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is a finished file of a store and no leftover."""
    return entry.name.endswith(".safetensors") and not entry.name.startswith(".")
