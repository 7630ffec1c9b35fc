"""Write safetensors files as a stream and map them into memory.

The library of that name wants all arrays in memory to write a file. The format is simple: eight
bytes little-endian for the length of the header, the header as JSON (array name -> type, shape,
offsets; ``__metadata__`` -> text values), then the arrays end to end. The library reads files that
were written here, and the other way round.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

TYPE_NAMES = {"<f4": "F32", "<f2": "F16", "|b1": "BOOL"}
NUMPY_TYPES = {name: np.dtype(code) for code, name in TYPE_NAMES.items()}
LENGTH = struct.Struct("<Q")
ALIGNMENT = 8
# A third of the library's: a header made to harm takes more than twenty times as much when it is
# read. Ours stay far below, those of long ids by `packing.SHARD_NAMES`.
HEADER_LIMIT = 32 << 20
METADATA = "__metadata__"
# What JSON that is no header of ours makes of the code that reads it.
DAMAGED = (
    *(ValueError, TypeError, KeyError, AttributeError, IndexError),
    *(OverflowError, RecursionError),
)


class FormatFault(Exception):  # noqa: N818 - callers say whose file it is
    """The bytes are no safetensors file, or not all of one."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one array lies in its file.

    Attributes:
        dtype: Type of its values.
        shape: Its shape.
        begin: First byte, counted from the start of the file.
        end: Byte after the last one.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The header of a file.

    Attributes:
        path: The file.
        size: Its size in bytes.
        metadata: Text values beside the arrays.
        fields: What the header says of each array; `place` makes sense of one. A shard has
            thousands, of which few are asked for.
        data_start: Byte at which the arrays begin.
    """

    path: Path
    size: int
    metadata: Mapping[str, str]
    fields: Mapping[str, Mapping[str, Any]]
    data_start: int

    def map(self) -> NDArray[np.uint8]:
        """The whole file as bytes, mapped into memory and read-only."""
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def place(self, name: str) -> TensorPlace:
        """Where one array lies.

        Raises:
            KeyError: There is no such array.
            FormatFault: Its type, shape and offsets do not fit together.
        """
        fields = self.fields[name]
        try:
            dtype = NUMPY_TYPES[fields["dtype"]]
            shape = tuple(int(length) for length in fields["shape"])
            begin, end = (self.data_start + int(offset) for offset in fields["data_offsets"])
        except DAMAGED as error:
            raise FormatFault(f"the header of its array {name!r} is damaged") from error
        length = dtype.itemsize * math.prod(shape)
        if min(shape, default=0) < 0 or not self.data_start <= begin <= end == begin + length:
            raise FormatFault(f"shape and place of its array {name!r} disagree")
        return TensorPlace(dtype, shape, begin, end)

    def array(self, name: str, mapped: NDArray[np.uint8]) -> NDArray[Any]:
        """One array as a view of the mapped file.

        Raises:
            KeyError: There is no such array.
            FormatFault: Its type, shape and offsets do not fit together.
        """
        place = self.place(name)
        data: NDArray[Any] = np.asarray(mapped[place.begin : place.end])
        try:
            return data.view(place.dtype).reshape(place.shape)
        except (ValueError, OverflowError) as error:  # no values, in more rows than there can be
            raise FormatFault(f"the shape of its array {name!r} is damaged") from error


def read_header(path: str | os.PathLike[str]) -> TensorFile:
    """Read a file's header and check that the file is as long as it says.

    Raises:
        FormatFault: Damaged or another format.
        OSError: The file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        start = handle.read(LENGTH.size)
        length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else HEADER_LIMIT + 1
        if length > min(HEADER_LIMIT, size - LENGTH.size):
            raise FormatFault("its header is cut off")
        text = handle.read(length)
    try:
        fields = json.loads(text)
        metadata = dict(fields.pop(METADATA, {}))
        data_start = LENGTH.size + length
        end = data_start + max((int(f["data_offsets"][1]) for f in fields.values()), default=0)
    except DAMAGED as error:
        raise FormatFault("its header is damaged") from error
    if end != size:
        raise FormatFault(f"it has {size} bytes instead of {end}")
    return TensorFile(path, size, metadata, fields, data_start)


@dataclass(frozen=True, slots=True)
class TensorSource:
    """An array to be written.

    Attributes:
        name: Its name in the file.
        dtype: Type code, a key of `TYPE_NAMES`.
        shape: Its shape.
        chunks: Its bytes in order, in pieces.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[bytes | memoryview]


def write_tensors(
    handle: BinaryIO, sources: Iterable[TensorSource], metadata: Mapping[str, str]
) -> None:
    """Write a file piece by piece.

    Arrays of wide types come first, so that each is aligned to its type; among those of one width
    the order given is kept.

    Raises:
        ValueError: An array brings another number of bytes than its shape asks for.
    """
    ordered = sorted(sources, key=lambda source: -np.dtype(source.dtype).itemsize)
    header: dict[str, Any] = {METADATA: dict(metadata)}
    offset = 0
    for source in ordered:
        length = np.dtype(source.dtype).itemsize * math.prod(source.shape)
        header[source.name] = {
            "dtype": TYPE_NAMES[source.dtype],
            "shape": list(source.shape),
            "data_offsets": [offset, offset + length],
        }
        offset += length
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    handle.write(LENGTH.pack(len(text)) + text)
    for source in ordered:
        begin, end = header[source.name]["data_offsets"]
        written = sum(handle.write(chunk) for chunk in source.chunks)
        if written != end - begin:
            raise ValueError(f"array {source.name!r} has {written} bytes instead of {end - begin}")


def value_offset(metadata: Mapping[str, str], key: str) -> int:
    """Byte of a file of `write_tensors` at which a text value begins.

    A value of the same length in ASCII can be written there when it is known.

    Args:
        metadata: As it was written.
        key: Of the value.
    """
    names = list(metadata)
    before = {name: metadata[name] for name in names[: names.index(key)]}
    start = json.dumps({METADATA: before | {key: ""}}, ensure_ascii=False, separators=(",", ":"))
    return LENGTH.size + len(start.encode("utf-8")) - len('"}}')
