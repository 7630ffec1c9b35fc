"""Open a foreign checkpoint and find its tensors, without loading them.

Three layouts: the zip archive that torch writes since 2020 (a pickle, and one uncompressed member
for each storage), the older row of pickles with the storages behind them, and a bare pickle of
arrays or tensors. All go through `extractors.checkpoints.unpickle`, so nothing in the file is run.
The bytes of a tensor are read when they are asked for: a file of 15 GB costs no more memory than
its table.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from extractors.checkpoints.stored_tensor import ITEM_BYTES, CheckpointFault, Storage, StoredTensor
from extractors.checkpoints.unpickle import StorageType, resolve, unpickle
from extractors.zip_faults import ZIP_FAULTS

CHUNK_BYTES = 1 << 24
ZIP_START = b"PK\x03\x04"
ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of name and extra field
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # with which torch's older layout begins
PICKLE_LIMIT = 1 << 28  # bytes of the table in an archive; that of 10,000 tensors has 1 MB
WORD_BYTES = 64  # of a member that says one word
COUNT = struct.Struct("<q")


@contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[Any]:
    """What a checkpoint holds.

    Args:
        path: A file of ``torch.save`` or a bare pickle.

    Yields:
        Containers and plain values, with `StoredTensor` in place of tensors; their
        bytes can be read inside the block.

    Raises:
        CheckpointFault: Damaged, cut off, or asking for code to be run.
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as handle:
        start = handle.read(len(ZIP_START))
        handle.seek(0)
        if start == ZIP_START:
            yield _read_archive(handle)
        elif _is_older_layout(handle):
            yield _read_older(handle)
        else:
            yield unpickle(handle, nested=_read_nested)


def find_tensors(content: Any, *keys: str) -> dict[str, StoredTensor]:
    """The tensors of a state dict inside a checkpoint.

    Args:
        content: What `open_checkpoint` yields.
        keys: Names under which a state dict may lie; where there is none of them, ``content``
            itself is taken for one.

    Returns:
        Name to tensor, in the order of the file.

    Raises:
        CheckpointFault: There is no state dict.
    """
    if not isinstance(content, dict):
        raise CheckpointFault(f"it holds a {type(content).__name__} and not a table of tensors")
    table = next((content[key] for key in keys if isinstance(content.get(key), dict)), content)
    values = {name: resolve(value) for name, value in table.items() if isinstance(name, str)}
    tensors = {name: value for name, value in values.items() if isinstance(value, StoredTensor)}
    if not tensors:
        names = ", ".join(repr(name) for name in list(content)[:5])
        raise CheckpointFault(f"it holds no tensors (but {names or 'nothing'})")
    return tensors


class FileStorage:
    """Values that lie in a file; see `extractors.checkpoints.stored_tensor.Storage`.

    Args:
        handle: The file.
        dtype: Type of the values, a key of `ITEM_BYTES`.
        count: Number of values.

    Attributes:
        begin: Byte of the file at which they begin.
        checksum: CRC-32 of their bytes, where the file says one.
    """

    def __init__(self, handle: IO[bytes], dtype: str, count: int) -> None:
        self.dtype = dtype
        self.count = count
        self.begin = 0
        self.checksum: int | None = None
        self._handle = handle
        self._checked = False

    @property
    def nbytes(self) -> int:
        """Bytes of all its values."""
        return self.count * ITEM_BYTES[self.dtype]

    def check(self) -> None:
        """Read all of it once.

        Raises:
            CheckpointFault: The file is cut off there, or the checksum does not fit.
        """
        if not self._checked:
            for _ in self.chunks(0, self.nbytes):
                pass
            self._checked = True

    def chunks(self, begin: int, end: int) -> Iterator[bytes]:
        """Bytes ``begin`` .. ``end`` - 1; where they are all of them, the checksum is compared."""
        position, checksum = begin, 0
        while position < end:
            self._handle.seek(self.begin + position)
            chunk = self._handle.read(min(CHUNK_BYTES, end - position))
            if not chunk:
                raise CheckpointFault("it is cut off inside a tensor")
            position += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            yield chunk
        whole = begin == 0 and end == self.nbytes
        if whole and self.checksum is not None and checksum != self.checksum:
            raise CheckpointFault("the checksum of one of its tensors does not fit")


def _read_archive(handle: IO[bytes]) -> Any:
    try:
        archive = zipfile.ZipFile(handle)
        tables = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(tables) != 1:
            raise CheckpointFault("it is a zip archive but no checkpoint: it has no data.pkl")
        folder = tables[0].removesuffix("data.pkl")
        if archive.getinfo(tables[0]).file_size > PICKLE_LIMIT:
            raise CheckpointFault("the table of its tensors has more than 256 MiB")
        if _byte_order(archive, f"{folder}byteorder") != b"little":
            raise CheckpointFault("its numbers are in big-endian order")
        table = archive.read(tables[0])
    except ZIP_FAULTS as error:
        raise CheckpointFault(f"its archive is cut off or damaged ({error})") from error
    storages: dict[str, FileStorage] = {}

    def storage(pid: Any) -> Storage:
        dtype, key, count = _storage_id(pid)
        if key not in storages:
            storages[key] = _archived(handle, archive, f"{folder}data/{key}", dtype, count)
        return storages[key]

    return unpickle(io.BytesIO(table), storage=storage)


def _archived(
    handle: IO[bytes], archive: zipfile.ZipFile, name: str, dtype: str, count: int
) -> FileStorage:
    """Where the bytes of one uncompressed member lie."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointFault(f"its archive has no member {name!r}") from None
    storage = FileStorage(handle, dtype, count)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.nbytes:
        raise CheckpointFault(
            f"member {name!r} of its archive has {info.file_size} bytes "
            f"instead of {storage.nbytes} uncompressed ones"
        )
    handle.seek(info.header_offset)
    header = handle.read(ZIP_LOCAL_HEADER.size)
    if len(header) < ZIP_LOCAL_HEADER.size or not header.startswith(ZIP_START):
        raise CheckpointFault(f"member {name!r} of its archive is not where it should be")
    _, name_length, extra_length = ZIP_LOCAL_HEADER.unpack(header)
    storage.begin = info.header_offset + ZIP_LOCAL_HEADER.size + name_length + extra_length
    storage.checksum = info.CRC
    return storage


def _byte_order(archive: zipfile.ZipFile, name: str) -> bytes:
    """What a member says, which is a word: a few bytes can unpack to more than a memory holds."""
    if name not in archive.namelist():
        return b"little"
    with archive.open(name) as member:
        return member.read(WORD_BYTES).strip()


def _is_older_layout(handle: IO[bytes]) -> bool:
    try:
        return bool(unpickle(handle) == MAGIC_NUMBER)
    except CheckpointFault:
        return False  # the bare pickle, read again, will say what is wrong with it
    finally:
        handle.seek(0)


def _read_older(handle: IO[bytes]) -> Any:
    """Magic number, version, system, content, names of the storages; then the storages."""
    storages: dict[str, FileStorage] = {}

    def storage(pid: Any) -> Storage:
        dtype, key, count = _storage_id(pid)
        return storages.setdefault(key, FileStorage(handle, dtype, count))

    _, _, system = (unpickle(handle) for _ in range(3))
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise CheckpointFault("its numbers are in big-endian order")
    content = unpickle(handle, storage=storage)
    names = unpickle(handle)
    if not isinstance(names, list) or not _are_texts(names) or set(names) != set(storages):
        raise CheckpointFault("the list of its storages does not fit its tensors")
    size = _file_size(handle)
    for name in names:
        place = storages[name]
        count = handle.read(COUNT.size)
        if len(count) < COUNT.size or COUNT.unpack(count)[0] != place.count:
            raise CheckpointFault("it is cut off or damaged before a tensor")
        place.begin = handle.tell()
        if place.begin + place.nbytes > size:
            raise CheckpointFault("it is cut off inside a tensor")
        handle.seek(place.nbytes, os.SEEK_CUR)
    return content


def _are_texts(names: list[Any]) -> bool:
    return all(isinstance(name, str) for name in names)


def _file_size(handle: IO[bytes]) -> int:
    here = handle.tell()
    size = handle.seek(0, os.SEEK_END)
    handle.seek(here)
    return size


def _read_nested(data: bytes) -> Any:
    """A storage inside a bare pickle is a file of the older layout of its own."""
    handle = io.BytesIO(data)
    if not _is_older_layout(handle):
        raise CheckpointFault("a storage inside its pickle is of an unknown layout")
    return _read_older(handle)


def _storage_id(pid: Any) -> tuple[str, str, int]:
    """Type, name and length of a storage: ("storage", type, name, device, count, ...)."""
    match pid:
        case ("storage", StorageType(dtype=dtype), str(key), _, int(count), *rest) if count >= 0:
            if any(rest):
                raise CheckpointFault("its storages are views of others, which is not supported")
            return dtype, key, count
    raise CheckpointFault("its pickle refers to something that is no storage")
