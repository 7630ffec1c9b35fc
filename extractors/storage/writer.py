"""Write one video's features as they come, in bounded memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from extractors.features import ARRAY_TYPES, Rows, Summary
from extractors.shapes import array_shapes
from extractors.storage.feature_file import COPY_BYTES, pieces, write_feature_file
from extractors.storage.records import Record, Source, hash_arrays
from extractors.storage.safetensors_io import TensorSource
from extractors.storage.view import StoreView


class VideoWriter:
    """Takes rows in order and puts the video into the store at `finish`.

    A context manager; left without `finish`, it leaves nothing behind. Rows wait in nameless
    temporary files on the store's disk, one per array.

    Args:
        store: The store.
        id: Name of the video.
        source: Fingerprint of the media file.
    """

    def __init__(self, store: StoreView, id: str, *, source: Source | None) -> None:
        self._store = store
        self._id = id
        self._source = source
        self._steps = 0
        self._shapes = array_shapes(store.spec)
        self._spools = {name: _Spool(store) for name in self._shapes}

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for spool in self._spools.values():
            spool.handle.close()

    def append(self, rows: Rows) -> None:
        """Add the next steps.

        Raises:
            ValueError: An array is missing, is none of this backbone's, or has a wrong shape.
        """
        if rows.keys() != self._shapes.keys():
            raise ValueError(f"rows hold {sorted(rows)}, the backbone has {sorted(self._shapes)}")
        count = len(next(iter(rows.values())))
        for name, shape in self._shapes.items():
            if rows[name].shape != (count, *shape):
                raise ValueError(
                    f"{name} has shape {rows[name].shape} instead of {(count, *shape)}"
                )
        for name, spool in self._spools.items():
            spool.add(np.ascontiguousarray(rows[name], dtype=ARRAY_TYPES[name]))
        self._steps += count

    def finish(self, summary: Summary) -> Record:
        """Put the video into the store, in place of an older revision.

        Args:
            summary: What is known of the video.

        Raises:
            ValueError: The summary counts other steps than were appended.
        """
        if summary.steps != self._steps:
            raise ValueError(f"{self._steps} steps were appended, the summary has {summary.steps}")
        table = {
            name: (ARRAY_TYPES[name], (self._steps, *shape), self._spools[name].sha.hexdigest())
            for name, shape in self._shapes.items()
        }
        with self._store.locks.hold(f"video {self._id}", wait=True):
            old = self._store.get(self._id)
            record = Record(
                id=self._id,
                revision=0 if old is None else old.revision + 1,
                summary=summary,
                source=self._source,
                sha256=hash_arrays(table),
            )
            write_feature_file(
                self._store.loose_path(self._id),
                digest=self._store.digest,
                records=[record],
                sources=[
                    TensorSource(f"{self._id}/{name}", dtype, shape, self._spools[name].chunks())
                    for name, (dtype, shape, _) in table.items()
                ],
            )
        return record


class _Spool:
    """Bytes of one array on their way, with their hash."""

    def __init__(self, store: StoreView) -> None:
        self.handle: IO[bytes] = tempfile.TemporaryFile(dir=store.path)  # noqa: SIM115 - see __exit__
        self.sha = hashlib.sha256()

    def add(self, array: NDArray[Any]) -> None:
        for piece in pieces(array):
            self.handle.write(piece)
            self.sha.update(piece)

    def chunks(self) -> Iterator[bytes]:
        self.handle.seek(0)
        while chunk := self.handle.read(COPY_BYTES):
            yield chunk
