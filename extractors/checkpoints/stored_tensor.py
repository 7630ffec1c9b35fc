"""Tensors that still lie in the file that holds them, as the readers of checkpoints find them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class CheckpointFault(Exception):  # noqa: N818 - callers say whose file it is
    """The file is damaged, or asks for something that no checkpoint needs."""


class Storage(Protocol):
    """A row of values in a file or in memory.

    Attributes:
        dtype: Type of the values, a key of `ITEM_BYTES`.
        count: Number of values.
    """

    dtype: str
    count: int

    def chunks(self, begin: int, end: int) -> Iterator[bytes]:
        """Bytes ``begin`` .. ``end`` - 1, in pieces."""
        ...


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that still lies where it was stored.

    Attributes:
        storage: Its values, perhaps among those of others.
        offset: Place of its first value in the storage.
        shape: Its shape.
        strides: Values from one element to the next, along each dimension.

    Raises:
        CheckpointFault: It reaches outside its storage.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        whole = all(type(number) is int and number >= 0 for number in numbers)
        if not whole or len(self.shape) != len(self.strides):
            raise CheckpointFault(f"a tensor of shape {self.shape} has strides {self.strides}")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        # More values than there are would be one value spread over a shape of any size.
        count = self.storage.count
        if 0 not in self.shape and (last >= count or math.prod(self.shape) > count):
            raise CheckpointFault(f"a tensor of shape {self.shape} reaches outside its storage")

    @property
    def dtype(self) -> str:
        """Type of its values, a key of `ITEM_BYTES`."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def chunks(self) -> Iterator[bytes]:
        """Its values in row-major order, little-endian, in pieces.

        Raises:
            CheckpointFault: The file is damaged there.
        """
        size = ITEM_BYTES[self.dtype]
        if 0 in self.shape or self.strides == row_major(self.shape):
            yield from self.storage.chunks(self.offset * size, self.offset * size + self.nbytes)
            return
        whole = b"".join(self.storage.chunks(0, self.storage.count * size))
        values = np.frombuffer(whole, dtype=f"V{size}")[self.offset :]
        strides = tuple(stride * size for stride in self.strides)
        yield np.lib.stride_tricks.as_strided(values, self.shape, strides).tobytes()


class MemoryStorage:
    """Values that came with the pickle itself; see `Storage`."""

    def __init__(self, dtype: str, data: bytes) -> None:
        self.dtype = dtype
        self.count = len(data) // ITEM_BYTES[dtype]
        self._data = data

    def chunks(self, begin: int, end: int) -> Iterator[bytes]:
        """Bytes ``begin`` .. ``end`` - 1."""
        yield self._data[begin:end]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in values, of an array in row-major order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
