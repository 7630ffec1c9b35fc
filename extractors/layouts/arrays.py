"""Read one array of a foreign feature file, and believe nothing of it before it was checked.

Only the npy format itself is read, never pickled objects; an array is loaded after its header has
been found right: its type, its width, its length, and that the file holds what the header says.
"""

from __future__ import annotations

import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.zip_faults import ZIP_FAULTS

MAX_BYTES = 8 << 30  # of one array: a day of 1536 values four times a second, in double precision
# Features hardly pack, those of silence well: what is large and packs better than so was made to
# fill a memory.
MAX_RATIO = 200
UNPACKED_BYTES = 256 << 20

HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# A header is a Python literal; numpy bounds its length, but what is nested too deep can still fail.
HEADER_ERRORS = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)

FaultKind = Literal["missing", "unreadable", "type", "shape", "length", "value", "store"]


class ArrayFault(Exception):  # noqa: N818 - callers say whose file it is
    """An array cannot be used.

    Args:
        kind: What is wrong, for counting.
        reason: What is wrong, for people; without the path.
    """

    def __init__(self, kind: FaultKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FaultKind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What a file says of its array.

    Attributes:
        shape: (T, D).
        dtype: Type of its values: 16, 32 or 64 bit floating point.
        fortran: Whether columns lie together instead of rows.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    fortran: bool


def read_array_header(path: Path, key: str = "") -> ArrayHeader:
    """Header of an array, checked against the size of its file.

    Args:
        path: An npy file, or an npz file.
        key: Name of the array in an npz file.

    Raises:
        ArrayFault: It is no array of floating point numbers (T, D) with at least one step.
    """
    with _opened(path, key) as (handle, size):
        return _header(handle, size)


def read_array(path: Path, key: str = "") -> NDArray[np.float32]:
    """The array itself, (T, D) float32; double precision is rounded.

    Raises:
        ArrayFault: As for `read_array_header`; a value is NaN, infinite, or too large for float32.
    """
    with _opened(path, key) as (handle, size):
        header = _header(handle, size)
        data = handle.read(header.dtype.itemsize * header.shape[0] * header.shape[1])
    flat = np.frombuffer(data, header.dtype)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    with np.errstate(over="ignore", invalid="ignore"):
        values: NDArray[np.float32] = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ArrayFault("value", _not_finite(array))
    return values


def _not_finite(array: NDArray[Any]) -> str:
    nan, infinite = np.isnan(array), np.isinf(array)
    for name, wrong in (("NaN", nan), ("infinite", infinite)):
        if wrong.any():
            step = int(np.argmax(wrong.any(1)))
            return f"{int(wrong.sum())} of {array.size} values are {name}, the first in step {step}"
    return f"a value of {np.abs(array).max():g} is too large for single precision"


@contextmanager
def _opened(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of an npy array and their number; what goes wrong with them is an `ArrayFault`."""
    try:
        size = _size(path)
        if not key:
            with path.open("rb") as handle:
                yield handle, size
            return
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{key}.npy")
            _refuse_bomb(info)
            with archive.open(info) as member:
                yield member, info.file_size
    except KeyError:
        raise ArrayFault("missing", f"holds no array {key!r}{_keys(path)}") from None
    except FileNotFoundError:
        raise ArrayFault("missing", "does not exist") from None
    except ZIP_FAULTS as error:
        raise ArrayFault("unreadable", f"is no sound npz file: {error}") from error
    except OSError as error:
        raise ArrayFault("unreadable", f"cannot be read: {error.strerror or error}") from error


def _size(path: Path) -> int:
    """Bytes of a file; a pipe would be waited for, a device read without end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ArrayFault("unreadable", "is no file")
    return status.st_size


def _refuse_bomb(info: zipfile.ZipInfo) -> None:
    """Refuse an array that a few bytes stand for and that would fill the memory."""
    if info.file_size > max(UNPACKED_BYTES, MAX_RATIO * info.compress_size):
        raise ArrayFault(
            "unreadable",
            f"unpacks {info.compress_size:,} bytes to {info.file_size:,}, more than "
            f"{MAX_RATIO} times as many",
        )


def _keys(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    return f", but {', '.join(names[:5])}" if names else ", it is empty"


def _header(handle: IO[bytes], size: int) -> ArrayHeader:
    if size == 0:
        raise ArrayFault("unreadable", "is empty")
    shape, fortran, dtype, start = _raw_header(handle)
    if dtype.hasobject:
        raise ArrayFault("type", "holds Python objects, which are not read: they may run code")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ArrayFault("type", f"holds {dtype}, not 16, 32 or 64 bit floating point numbers")
    if len(shape) != 2:
        raise ArrayFault("shape", f"has the shape {shape}, not (steps, values)")
    if min(shape) < 1:
        raise ArrayFault("shape", f"has the shape {shape}: there is nothing in it")
    needed = dtype.itemsize * shape[0] * shape[1]
    if needed > MAX_BYTES:
        raise ArrayFault(
            "shape", f"says {shape}: {needed:,} bytes, more than {MAX_BYTES:,} are not read"
        )
    if start + needed != size:
        raise ArrayFault(
            "unreadable",
            f"has {size:,} bytes instead of the {start + needed:,} that {shape} of {dtype} take",
        )
    return ArrayHeader((shape[0], shape[1]), dtype, fortran)


def _raw_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type, and where the values begin."""
    counting = _Counting(handle)
    try:
        version = np.lib.format.read_magic(counting)
        if version not in HEADER_READERS:
            raise ArrayFault(
                "unreadable", f"has npy format version {version}, known are 1.0 and 2.0"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2 are read with one
            shape, fortran, dtype = HEADER_READERS[version](counting)
    except HEADER_ERRORS as error:
        raise ArrayFault("unreadable", "is no npy array: its header is damaged") from error
    return shape, fortran, dtype, counting.count


class _Counting:
    """Counts what is read: a member of an archive cannot always say where it stands."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._handle.read(size)
        self.count += len(data)
        return data
