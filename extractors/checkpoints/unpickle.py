"""Read the pickles of foreign checkpoints without running what they say.

A pickle is a small program: it names functions and calls them. Here every name is looked up in
tables instead of being imported. Tensors come out as `StoredTensor`: shape, type and place of their
bytes, of which none has been read yet. Plain containers come out as themselves. Settings objects of
the training frameworks (``argparse``, ``omegaconf``, ``fairseq``, ...) come out as `Placeholder`,
which takes any call and does nothing. Every other name is refused.

What a pickle can reach is either immutable or made for that pickle alone, so that it cannot change
anything that outlives it.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from extractors.checkpoints.stored_tensor import (
    CheckpointFault,
    MemoryStorage,
    Storage,
    StoredTensor,
    row_major,
)

# What a damaged or hostile program makes the unpickler raise.
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError),
    *(ValueError, OverflowError, MemoryError, RecursionError, ImportError, struct.error),
)


class Placeholder:
    """Stands for a settings object: takes any call, keeps nothing."""

    def __init__(self, *args: Any, **values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Forget one more element."""

    def extend(self, values: Any) -> None:
        """Forget some more elements."""


class StorageType:
    """Stands for a storage class of torch, such as ``torch.FloatStorage``."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


def unpickle(
    stream: IO[bytes],
    *,
    storage: Callable[[Any], Storage] | None = None,
    nested: Callable[[bytes], Any] | None = None,
) -> Any:
    """Read one pickle.

    Args:
        stream: Stands at the first byte of the pickle, and after it at the byte behind.
        storage: From a persistent id to the storage that it means; None where a pickle of this
            kind has no persistent ids.
        nested: Reads a storage that lies inside the pickle as a file of its own.

    Returns:
        Containers and plain values, with `StoredTensor` for tensors and arrays, and `Placeholder`.

    Raises:
        CheckpointFault: Damaged, or naming something else than tensors, containers and settings.
    """
    try:
        return _Unpickler(stream, storage, nested).load()
    except DAMAGE as error:
        raise CheckpointFault(f"its pickle is damaged ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    """Looks names up in the tables below and imports nothing."""

    def __init__(
        self,
        stream: IO[bytes],
        storage: Callable[[Any], Storage] | None,
        nested: Callable[[bytes], Any] | None,
    ) -> None:
        super().__init__(stream, encoding="latin1")  # that of pickles written by Python 2
        self._storage = storage
        self._nested = nested

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGE_TYPES:
            return StorageType(_STORAGE_TYPES[name])
        if (module, name) == ("torch.storage", "_load_from_bytes") and self._nested is not None:
            return _Maker(self._nested)
        if (module, name) in _MAKERS:
            return _Maker(_MAKERS[module, name])
        if (module, name) in _INERT or module.partition(".")[0] in _SETTINGS:
            return type("Placeholder", (Placeholder,), {})
        raise CheckpointFault(
            f"its pickle asks for {module}.{name}, which is neither a tensor nor a plain container"
        )

    def persistent_load(self, pid: Any) -> Storage:
        if self._storage is None:
            raise CheckpointFault("its pickle refers to data outside it")
        return self._storage(pid)


class _Maker:
    """A function that a pickle may call but not change."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise CheckpointFault("its pickle tries to change a function")

    def __setstate__(self, state: Any) -> NoReturn:
        raise CheckpointFault("its pickle tries to change a function")


class _Dict(dict[Any, Any]):
    """An ordered dictionary whose further attributes, such as versions of layers, are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """A numpy type on its way: the pickle first makes it and then tells its byte order."""

    def __init__(self, code: str, *flags: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    @property
    def name(self) -> str:
        """Key of `ITEM_BYTES`.

        Raises:
            CheckpointFault: No type of little-endian numbers.
        """
        name = _NUMPY_NAMES.get(str(self.code).lstrip("<|="))
        if name is None or self.order not in ("<", "|", "=") or str(self.code).startswith(">"):
            raise CheckpointFault(
                f"its pickle holds a numpy array of type {self.code!r}; "
                "only numbers in little-endian order are taken"
            )
        return name


class _Array:
    """A numpy array on its way: the pickle first makes it and then fills it."""

    tensor: StoredTensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType):
            raise CheckpointFault("its pickle holds a numpy array without a type")
        name = dtype.name  # before the data: an array of objects has a list there
        if isinstance(data, str):
            data = data.encode("latin1")
        self.tensor = _filled(name, data, tuple(shape), column_major=bool(fortran))


def resolve(value: Any) -> Any:
    """The tensor of an array, anything else unchanged."""
    return value.tensor if isinstance(value, _Array) else value


def _filled(dtype: str, data: bytes, shape: tuple[int, ...], *, column_major: bool) -> StoredTensor:
    if not isinstance(data, bytes | bytearray):
        raise CheckpointFault(f"its pickle fills a numpy array with {type(data).__name__}")
    strides = row_major(shape[::-1])[::-1] if column_major else row_major(shape)
    return StoredTensor(MemoryStorage(dtype, bytes(data)), 0, shape, strides)


# --- what pickles may call ------------------------------------------------------------------------


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    if isinstance(storage, StoredTensor) or not hasattr(storage, "chunks"):
        raise CheckpointFault("its pickle makes a tensor of something that is no storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _size(*values: Any) -> tuple[Any, ...]:
    return tuple(*values)


def _mapping(*values: Any) -> _Dict:
    """An ordered or default dictionary; the latter's factory, a placeholder, is left out."""
    return _Dict(*(value for value in values if isinstance(value, list | tuple | dict)))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickles below protocol 3 hold bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointFault(f"its pickle encodes text as {encoding!r}")
    return text.encode("latin1")


def _bytes(*values: Any) -> bytes:
    """No bytes at all, which pickles below protocol 3 cannot write otherwise."""
    if values:
        raise CheckpointFault("its pickle makes bytes of something else")
    return b""


def _empty_array(*kind: Any) -> _Array:
    return _Array()


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return array


def _nothing(*values: Any) -> None:
    """A numpy scalar of a training log."""


def _old_object(*values: Any) -> Placeholder:
    return Placeholder()


_STORAGE_TYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

_NUMPY_NAMES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}

_NUMPY_CORES = ("numpy.core", "numpy._core")

_MAKERS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): _mapping,
    **{(builtins, "set"): set for builtins in ("builtins", "__builtin__")},
    **{(builtins, "frozenset"): frozenset for builtins in ("builtins", "__builtin__")},
    **{(builtins, "bytes"): _bytes for builtins in ("builtins", "__builtin__")},
    ("_codecs", "encode"): _encode,
    **{(f"{core}.multiarray", "_reconstruct"): _empty_array for core in _NUMPY_CORES},
    **{(f"{core}.multiarray", "scalar"): _nothing for core in _NUMPY_CORES},
    **{(f"{core}.numeric", "_frombuffer"): _array_from_buffer for core in _NUMPY_CORES},
    ("numpy", "dtype"): _DType,
    **{(registry, "_reconstructor"): _old_object for registry in ("copyreg", "copy_reg")},
}

# Names that may be mentioned, as the type of something or the factory of a dictionary.
_INERT = frozenset(
    {
        ("numpy", "ndarray"),
        ("typing", "Any"),
        *((m, n) for m in ("builtins", "__builtin__") for n in ("object", "dict", "list", "int")),
        *((m, n) for m in ("builtins", "__builtin__") for n in ("float", "str", "bool", "tuple")),
        *(("torch", n) for n in ("device", "float32", "float16", "bfloat16", "int64")),
        *(("pathlib", n) for n in ("Path", "PosixPath", "WindowsPath")),
    }
)

# Packages whose objects hold settings and logs of a training run.
_SETTINGS = frozenset({"argparse", "omegaconf", "fairseq", "one_peace", "mmcv", "mmengine"})
