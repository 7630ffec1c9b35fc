"""Read the variables of a TensorFlow checkpoint without TensorFlow.

A checkpoint ``model.ckpt`` is two files. ``model.ckpt.index`` is a sorted table (blocks of keys
with shared beginnings, each block with a checksum) from a variable's name to a small message that
says type, shape, place and size. ``model.ckpt.data-00000-of-00001`` holds the values, row by row.

Source: the published layouts of LevelDB's table, of protocol buffers' wire format and of
TensorFlow's tensor bundle (facts about formats, no code).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.checkpoints.stored_tensor import CheckpointFault

DATA_SUFFIX = ".data-00000-of-00001"
INDEX_SUFFIX = ".index"

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER = struct.Struct("<BI")  # behind each block: compression, masked checksum
CRC_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
CRC_MASK = 0xA282EAD8
INDEX_LIMIT = 1 << 26  # bytes; the index of 230 variables has about 20 kB

TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # DataType: numpy's name


@dataclass(slots=True)
class _Entry:
    """Where a variable lies (BundleEntryProto)."""

    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    shard: int = 0
    offset: int = 0
    size: int = 0


def index_name(data_name: str) -> str:
    """Name of the index that belongs to a file with values.

    Raises:
        CheckpointFault: Its name is not that of the only part of a checkpoint.
    """
    if not data_name.endswith(DATA_SUFFIX):
        raise CheckpointFault(f"its name does not end in {DATA_SUFFIX}")
    return data_name.removesuffix(DATA_SUFFIX) + INDEX_SUFFIX


def read_tf_checkpoint(
    data_path: Path, index_path: Path | None = None
) -> dict[str, NDArray[np.generic]]:
    """All variables of a checkpoint.

    Args:
        data_path: The file with the values.
        index_path: Its index; None looks for it beside the values.

    Returns:
        Name to array.

    Raises:
        CheckpointFault: Damaged, cut off, or in several parts.
        OSError: A file cannot be read.
    """
    index_path = index_path or data_path.with_name(index_name(data_path.name))
    if not index_path.exists():
        raise CheckpointFault(f"{index_path.name} is not beside it")
    if index_path.stat().st_size > INDEX_LIMIT:
        raise CheckpointFault(f"{index_path.name} has more than 64 MiB")
    try:
        entries = dict(_entries(index_path.read_bytes()))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointFault(f"{index_path.name} is cut off or damaged") from error
    values = np.memmap(data_path, np.uint8, mode="r") if data_path.stat().st_size else np.empty(0)
    return {name: _values(name, entry, values) for name, entry in entries.items()}


def _values(name: str, entry: _Entry, values: NDArray[np.generic]) -> NDArray[np.generic]:
    if entry.dtype not in TYPES:
        raise CheckpointFault(f"its variable {name} is of the unknown type {entry.dtype}")
    dtype = np.dtype(TYPES[entry.dtype])
    if entry.shard or entry.size != math.prod(entry.shape) * dtype.itemsize:
        raise CheckpointFault(f"its variable {name} is in parts, or its size and shape disagree")
    if entry.offset + entry.size > len(values):
        raise CheckpointFault(f"it is cut off before the end of its variable {name}")
    held = values[entry.offset : entry.offset + entry.size]
    return np.frombuffer(held.tobytes(), dtype).reshape(entry.shape)


def _entries(table: bytes) -> Iterator[tuple[str, _Entry]]:
    """Name and place of each variable; the first row, without a name, describes the bundle."""
    footer = table[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != TABLE_MAGIC:
        raise CheckpointFault("its index is no table of variables, or cut off")
    _, position = _handle(footer, 0)  # of the block of notes, which says nothing here
    top, _ = _handle(footer, position)
    for _, value in _rows(_block(table, *top)):
        block, _ = _handle(value, 0)
        for key, message in _rows(_block(table, *block)):
            if key:
                yield key.decode(), _entry(message)


def _block(table: bytes, offset: int, size: int) -> bytes:
    content = table[offset : offset + size]
    kind, masked = TRAILER.unpack(table[offset + size : offset + size + TRAILER.size])
    if kind:
        raise CheckpointFault("its index is compressed, which is not supported")
    rotated = (masked - CRC_MASK) & 0xFFFFFFFF
    checksum = (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
    if checksum != crc32c(content + bytes([kind])):
        raise CheckpointFault("the checksum of its index does not fit")
    return content


def _rows(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; behind them lie the places of the keys that are whole."""
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def _entry(message: bytes) -> _Entry:
    entry = _Entry()
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):  # TensorShapeProto: dim = 2, its size = 1
            for inner, dimension in _fields(value):
                if inner == 2 and isinstance(dimension, bytes):
                    sizes = dict(_fields(dimension))
                    entry.shape.append(int(sizes.get(1, 0)))
        elif isinstance(value, int):
            names = {1: "dtype", 3: "shard", 4: "offset", 5: "size"}
            if number in names:
                setattr(entry, names[number], value)
        elif number == 7:
            raise CheckpointFault("one of its variables is stored in slices")
    return entry


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise CheckpointFault("its index holds a message of an unknown kind")
        yield tag >> 3, message[position : position + length]
        position += length


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Place and size of a block, and where the next value begins."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where the next value begins."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum; slow, for a few kilobytes."""
    table = _crc_table()
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _crc_table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (CRC_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(entry(value) for value in range(256))
