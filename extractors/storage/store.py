"""The feature store: a directory that holds the features of videos, safe against every crash.

::

    store.json            format version, backbone, its digest
    videos/*.safetensors  one finished video each, as workers leave them
    shards/*.safetensors  many videos each, made from those by `FeatureStore.pack`
    index.sqlite          which shard holds which video; derived, made again when it is missing
    ledger/*.jsonl        every attempt at every video; see `pipeline.core.ledger`
    locks                 claims of running writers; always empty

Every write is a temporary file, flushed, then renamed. Files of equal features are equal byte for
byte: they hold no time of day and no name of a machine.

A store may come from strangers. So nothing in it is a link, which would have its files written,
read or removed somewhere else; the store's own folder may be one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

from extractors.features import Features, Summary
from extractors.shapes import array_shapes
from extractors.spec import BackboneSpec
from extractors.storage.feature_file import (
    FORMAT_NAME,
    FORMAT_VERSION,
    REPAIR_HINT,
    FeatureFile,
    UnreadableError,
    file_name,
    is_feature_file,
    read_feature_file,
)
from extractors.storage.index import ShardIndex
from extractors.storage.packing import Damage, find_damage, pack_videos, repair_files
from extractors.storage.parts import check_parts
from extractors.storage.records import Record, Source
from extractors.storage.writer import VideoWriter
from pipeline.core.atomic import LEFTOVER_AGE_S, clean_temporaries, write_json
from pipeline.core.errors import StoreError, UsageError
from pipeline.core.ledger import Ledger
from pipeline.core.locks import LockFile

OPEN_FILES = 256  # files whose headers are kept
LONGEST_ID = 1 << 14  # bytes: a path of 4096 that are no UTF-8 has an id of four times as many

__all__ = ["Damage", "FeatureStore", "Record", "Source"]


class FeatureStore:
    """Features of many videos by one backbone. Use `create` or `open`.

    Any number of processes may read and write one store. An object may be used in any thread and
    sent to other processes.
    """

    def __init__(self, path: Path, spec: BackboneSpec) -> None:
        self.path = path
        self.spec = spec
        self.digest = spec.digest
        self._locks = LockFile(path / "locks")
        self.ledger = Ledger(path / "ledger", locks=self._locks)
        self._videos = path / "videos"
        self._index = ShardIndex(path, digest=self.digest, locks=self._locks)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, (self.path, self.spec)

    @classmethod
    def create(cls, path: str | os.PathLike[str], spec: BackboneSpec) -> FeatureStore:
        """Make a store, or open the one that is there, for writing.

        Raises:
            StoreError: The store there is of another backbone or damaged, one of its parts is a
                link, or the folder holds something else.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file, not a folder for features")
        if not (path / "store.json").exists():
            if path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
                raise StoreError(
                    f"{path} holds files but no feature store", hint="name a new or empty folder"
                )
            path.mkdir(parents=True, exist_ok=True)
            value = {
                "format": FORMAT_NAME,
                "version": FORMAT_VERSION,
                "digest": spec.digest,
                "backbone": spec.to_json(),
            }
            write_json(path / "store.json", value)
        store = cls.open(path, digest=spec.digest)
        clean_temporaries(path, older_than_seconds=LEFTOVER_AGE_S)
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, digest: str | None = None) -> FeatureStore:
        """Open a store; a store that may only be read will do.

        Args:
            path: Its folder.
            digest: Digest of the backbone that the features must be from; None takes any.

        Raises:
            StoreError: No store, a damaged one, one of another format version or another backbone,
                or one of whose parts is a link.
        """
        path = Path(path)
        check_parts(path)
        spec = _read_description(path)
        if digest is not None and digest != spec.digest:
            raise StoreError(
                f"the features in {path} were made by the backbone {spec.name!r} with digest "
                f"{spec.digest}, not by one with digest {digest}",
                hint="use another folder, or the backbone that made them",
            )
        return cls(path, spec)

    # --- reading ----------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Ids of all videos, sorted by code point."""
        loose = set(self._loose_ids())  # first: between the two looks some may move to a shard
        return sorted(loose.union(self._index.ids()))

    def __len__(self) -> int:
        return len(self.ids())

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.get(id) is not None

    def get(self, id: str) -> Record | None:
        """What is known of a video; None where it is not in the store, or its file is damaged."""
        found = self._find(id)
        return None if found is None else found[1]

    def record(self, id: str) -> Record:
        """What is known of a video.

        Raises:
            StoreError: It is not in the store.
        """
        return self._need(id)[1]

    def summary(self, id: str) -> Summary:
        """Duration, steps, coverage and notes of a video.

        Raises:
            StoreError: It is not in the store.
        """
        return self.record(id).summary

    def read(self, id: str) -> Features:
        """Features of a video, mapped into memory: arrays are read from disk when touched.

        They stay valid when the store is changed; each video that is kept keeps its file open.

        Raises:
            StoreError: It is not in the store, or its file is damaged.
        """
        for _ in range(2):
            path, record = self._need(id)
            try:
                file = self._file(path)
                arrays = file.arrays(id)
            except FileNotFoundError:  # packed since: it is in a shard now
                continue
            except KeyError:  # the index does not fit the shard
                self._index.rebuild()
                continue
            if not file.fits(id, array_shapes(self.spec)):
                raise StoreError(
                    f"{path} is damaged: the arrays of {id!r} are not of the types and lengths "
                    f"that the backbone {self.spec.name!r} makes",
                    hint=REPAIR_HINT,
                )
            return Features(id, self.spec.grid, self.digest, arrays, record.summary)
        raise StoreError(
            f"the features of {id!r} are not in {path}, where the store's index has them",
            hint=REPAIR_HINT,
        )

    # --- writing ----------------------------------------------------------------------------------

    def writer(self, id: str, *, source: Source | None = None) -> VideoWriter:
        """A writer for one video; nothing is in the store before its ``finish``.

        Args:
            id: Name of the video; one that is there already is replaced.
            source: Fingerprint of the media file, by which a later run sees that it changed.

        Raises:
            UsageError: The id is empty, too long or no valid text.
        """
        check_id(id)
        return VideoWriter(self, id, source=source)

    def claim(self, id: str) -> AbstractContextManager[bool]:
        """Hold a video for one writer: a context manager that yields whether it was free.

        The claim ends with the block or with the process, however that ends.
        """
        return self._locks.hold(f"video {id}", wait=False)

    def is_claimed_elsewhere(self, id: str) -> bool:
        """Whether another process is at a video; never where locks do not exclude any."""
        return self._locks.is_held_elsewhere(f"video {id}")

    def pack(self, *, min_videos: int = 1, go_on: Callable[[], bool] = lambda: True) -> int:
        """Join finished videos into shards of up to 256 MB, and ledger files of ended writers.

        Others may read and write meanwhile. Killed at any moment, it loses nothing; run again, it
        ends with the same files.

        Args:
            min_videos: Leave videos alone below this number of small files.
            go_on: Asked between steps of some seconds; once it says no, the rest is left.

        Returns:
            Number of videos packed; 0 also where another process is packing.
        """
        with self._locks.hold("pack", wait=False) as mine:
            if not mine:
                return 0
            packed = pack_videos(self, min_videos=min_videos, go_on=go_on)
            self.ledger.join()
            return packed

    def verify(self) -> Iterator[Damage]:
        """Read everything and yield what does not agree with its hash."""
        yield from find_damage(self)

    def repair(self) -> list[str]:
        """Remove what is damaged and keep all that is whole.

        Returns:
            Ids that are gone as far as they are known; extract them again.

        Raises:
            UnreadableError: The disk does not give out a file; nothing was changed.
        """
        with self._locks.hold("pack", wait=True):
            return repair_files(self)

    def rebuild_index(self) -> None:
        """Make the index again from the shards."""
        self._index.rebuild()

    # --- inside -----------------------------------------------------------------------------------

    @property
    def index(self) -> ShardIndex:
        """Where packed videos are; for the modules of the store."""
        return self._index

    @property
    def locks(self) -> LockFile:
        """Locks between the writers of this store; for the modules of the store."""
        return self._locks

    def loose_path(self, id: str) -> Path:
        """Where the small file of a video is, or would be."""
        return self._videos / file_name(id)

    def loose_paths(self) -> list[Path]:
        """All small files, sorted by name."""
        if not self._videos.is_dir():
            return []
        with os.scandir(self._videos) as entries:
            return sorted(Path(entry.path) for entry in entries if is_feature_file(entry))

    def _loose_ids(self) -> Iterator[str]:
        for path in self.loose_paths():
            try:
                yield from read_feature_file(path, digest=self.digest).ids
            except UnreadableError:
                raise  # what cannot be read just now must not be missed without a word
            except (StoreError, FileNotFoundError):
                continue  # verify() names it

    def _find(self, id: str) -> tuple[Path, Record] | None:
        """File and record of the newest revision of a video."""
        loose = self._find_loose(id)  # first: between the two looks it may move to a shard
        shelf = self._index.get(id)
        if shelf is None:
            return loose
        if loose is not None and loose[1].revision >= shelf.record.revision:
            return loose
        return shelf.shard, shelf.record

    def _find_loose(self, id: str) -> tuple[Path, Record] | None:
        path = self.loose_path(id)
        try:
            return path, read_feature_file(path, digest=self.digest).record(id)
        except UnreadableError:
            raise
        except (StoreError, FileNotFoundError, KeyError):
            return None

    def _need(self, id: str) -> tuple[Path, Record]:
        found = self._find(id)
        if found is None:
            raise StoreError(
                f"no features of {id!r} in {self.path}", hint="extract it with pipeline extract"
            )
        return found

    def _file(self, path: Path) -> FeatureFile:
        status = path.stat()
        return _cached_file(path, self.digest, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=OPEN_FILES)
def _cached_file(path: Path, digest: str, inode: int, mtime_ns: int, size: int) -> FeatureFile:
    """Header of a file; the last three arguments tell one file of that name from another."""
    return read_feature_file(path, digest=digest)


def check_id(id: str) -> None:
    """Refuse what cannot name a video.

    Raises:
        UsageError: Empty, longer than a path can be, or no valid Unicode text.
    """
    try:
        length = len(id.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{id!r} cannot name a video: it is no valid text") from error
    if not id:
        raise UsageError("a video's id is empty")
    if length > LONGEST_ID:
        raise UsageError(
            f"a video's id has {length:,} bytes, {LONGEST_ID:,} at the most: {id[:40]!r}..."
        )


def _read_description(path: Path) -> BackboneSpec:
    file = path / "store.json"
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} holds no feature store", hint="make one with pipeline extract --out"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from error
    try:
        if value["format"] != FORMAT_NAME:
            raise StoreError(f"{file} describes something else than a feature store")
        if value["version"] != FORMAT_VERSION:
            raise StoreError(
                f"the store {path} has format version {value['version']}, this program reads "
                f"{FORMAT_VERSION}",
                hint="update the program",
            )
        spec = BackboneSpec.from_json(value["backbone"])
        digest = value["digest"]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise StoreError(f"{file} is damaged: {error!r}") from error
    if digest != spec.digest:
        raise StoreError(f"{file} is damaged: its digest is not that of its backbone")
    return spec
