"""Foreign checkpoints are read without running them; what is hostile or damaged is refused."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.checkpoints.stored_tensor import CheckpointFault, StoredTensor
from extractors.checkpoints.torch_file import CHUNK_BYTES, find_tensors, open_checkpoint
from extractors.checkpoints.unpickle import Placeholder

LAYOUTS: dict[str, Callable[[Any, Path], object]] = {
    "archive": torch.save,
    "older": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "bare": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(40, generator=generator)
    return {
        "matrix": torch.randn(3, 4, generator=generator),
        "parameter": torch.nn.Parameter(torch.randn(2, 2, generator=generator)),
        "turned": torch.randn(4, 5, generator=generator).t(),
        "slice": whole[10:20],
        "every-third": whole[1::3],
        "numbers": torch.arange(5),
        "half": torch.randn(3, generator=generator).half(),
        "brain": torch.randn(3, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }


def read(path: Path, *keys: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    with open_checkpoint(path) as content:
        return {
            name: (tensor.dtype, tensor.shape, b"".join(tensor.chunks()))
            for name, tensor in find_tensors(content, *keys).items()
        }


def expected(values: dict[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
            value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, value in values.items()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_every_kind_of_tensor(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    LAYOUTS[layout]({"model": OrderedDict(tensors())}, path)
    assert read(path, "state_dict", "model") == expected(tensors())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_a_bare_pickle_are_read_in_every_protocol(
    protocol: int, order: Any, tmp_path: Path
) -> None:
    arrays = {
        "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
        "deep": np.arange(24, dtype=np.float64).reshape(2, 3, 4),
        "numbers": np.arange(4, dtype=np.int64),
    }
    path = tmp_path / "net.pkl"
    stored = {name: np.asarray(array, order=order) for name, array in arrays.items()}
    path.write_bytes(pickle.dumps({"model": stored}, protocol=protocol))
    found = read(path, "model")
    for name, array in arrays.items():
        assert found[name] == (str(array.dtype), array.shape, array.tobytes())


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    # {"model": {"w": numpy.arange(2, dtype=float32)}} as Python 2 writes it, its bytes as text.
    program = (
        b"\x80\x02}U\x05model}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x00\x00\x00\x00\x80?tbss."
    )
    path = tmp_path / "net.pkl"
    path.write_bytes(program)
    assert read(path, "model")["w"] == ("float32", (2,), np.array([0, 1], np.float32).tobytes())


def test_settings_and_logs_beside_the_tensors_become_inert(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    content = {
        "cfg": Namespace(lr=[0.1], nested=Namespace(a={1, 2})),
        "extra": {"loss": np.float64(2.5), "seen": defaultdict(list, {"a": [1]})},
        "where": torch.device("cpu"),
        "type": torch.float32,
        "path": Path("/somewhere"),
        "shape": torch.Size([1, 2]),
        "model": {"w": torch.zeros(1)},
    }
    torch.save(content, path)
    with open_checkpoint(path) as found:
        assert isinstance(found["cfg"], Placeholder)
        assert not vars(found["cfg"])
        assert found["extra"]["seen"] == {"a": [1]}
        assert found["shape"] == (1, 2)
        assert set(find_tensors(found, "model")) == {"w"}


def test_the_settings_packages_are_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(b"cfairseq.models\nEvil\n)R.")  # there is no such package here
    with open_checkpoint(path) as found:
        assert isinstance(found, Placeholder)
    assert "fairseq" not in sys.modules


def test_tensors_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.zeros(16 << 20)}, path)  # 64 MiB
    tracemalloc.start()
    try:
        with open_checkpoint(path) as content:
            opened = tracemalloc.get_traced_memory()[1]
            length = sum(len(chunk) for chunk in find_tensors(content)["w"].chunks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert length == 64 << 20
    assert opened < 1 << 20
    assert peak < 2.5 * CHUNK_BYTES


# --- hostile ones ---------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of something with something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "subprocess": lambda mark: Calls(subprocess.check_call, ["touch", str(mark)]),
    "eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Calls(open, str(mark), "w"),
    "import": lambda mark: Calls(__import__, "this"),
    "getattr": lambda mark: Calls(getattr, "text", "format"),
    "getattr-of-a-namespace": lambda mark: Calls(getattr, Namespace, "__init__"),
    "torch.load": lambda mark: Calls(torch.load, str(mark)),
    "numpy.load": lambda mark: Calls(np.load, str(mark), None, True),
    "path": lambda mark: Calls(Path.touch, mark),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attack", HOSTILE)
def test_a_pickle_that_calls_something_is_refused_and_nothing_happens(
    attack: str, layout: str, tmp_path: Path
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.pt"
    LAYOUTS[layout]({"model": {"w": torch.zeros(2)}, "x": HOSTILE[attack](mark)}, path)
    with pytest.raises(CheckpointFault, match="neither a tensor nor a plain container"):
        read(path, "model")
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x8c\x0ccollections\x94\x8c\x20OrderedDict.__init__.__globals__\x93.",
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x24_rebuild_tensor_v2.__globals__.__x__\x93.",
        b"cbuiltins\ngetattr\n.",
        b"c__builtin__\neval\n.",
        b"cposix\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",  # the table of extensions
        b"Psomething outside\n.",
        b"ctorch.storage\n_load_from_bytes\n(C\x04ruintR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
    ids=[
        *("dotted-name", "globals-of-a-function", "getattr", "eval-of-python-2", "posix"),
        *("inst", "extension", "persistent-id", "nested-ruin", "codec"),
    ],
)
def test_programs_that_no_pickler_writes_are_refused(program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(program)
    with pytest.raises(CheckpointFault), open_checkpoint(path):
        pass


@pytest.mark.parametrize(
    "state", [b"}S'a'\nI1\ns", b"N}S'__globals__'\nI1\ns\x86"], ids=["attributes", "slots"]
)
def test_functions_of_ours_cannot_be_changed(state: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b.")
    with pytest.raises(CheckpointFault, match="change a function"), open_checkpoint(path):
        pass


def test_an_array_of_python_objects_is_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.pkl"
    objects = np.array([1, "two", [3]], dtype=object)
    path.write_bytes(pickle.dumps({"model": {"w": objects}}, protocol=2))
    with pytest.raises(CheckpointFault, match="numpy array of type 'O8'"):
        read(path, "model")
    objects[1] = Calls(os.system, f"touch {mark}")
    path.write_bytes(pickle.dumps({"model": {"w": objects}}, protocol=2))
    with pytest.raises(CheckpointFault, match=r"asks for posix\.system"):
        read(path, "model")
    assert not mark.exists()


@pytest.mark.parametrize("dtype", [">f4", "U3", "complex64", "M8[s]"])
def test_an_array_of_something_else_than_little_endian_numbers_is_refused(
    dtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.zeros(3, dtype)}}, protocol=2))
    with pytest.raises(CheckpointFault, match="numpy array of type"):
        read(path, "model")


class Rebuilt:
    """Pickles as a tensor with the measures of one's choice."""

    def __init__(self, offset: Any, shape: Any, strides: Any) -> None:
        self.measures = (offset, shape, strides)

    def __reduce__(self) -> Any:
        storage = torch.zeros(4).storage()
        return torch._utils._rebuild_tensor_v2, (storage, *self.measures, False, OrderedDict())


@pytest.mark.parametrize(
    "measures",
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 2)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (0, (1 << 62, 1 << 62), (0, 1)),
        (0, (1 << 40,), (0,)),
    ],
)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_tensor_that_reaches_outside_its_storage_is_refused(
    measures: tuple[Any, Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": Rebuilt(*measures)}, path)
    with pytest.raises(CheckpointFault, match="a tensor of shape"):
        read(path)


# --- damaged ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_off_anywhere_is_refused(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    LAYOUTS[layout]({"model": {"w": torch.arange(100.0), "b": torch.arange(7.0)}}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointFault):
            read(path, "model")


def test_a_flipped_bit_in_a_tensor_of_an_archive_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(400, 410, dtype=np.float32).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointFault, match="checksum"):
        read(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointFault, match=r"no data\.pkl"):
        read(path)


def repacked(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members:
            if (changed := change(name, data)) is not None:
                archive.writestr(name, changed)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda n, d: d, {"compression": zipfile.ZIP_DEFLATED}, "uncompressed"),
        (lambda n, d: None if "/data/" in n else d, {}, "has no member"),
        (lambda n, d: d[:-4] if "/data/" in n else d, {}, "396 bytes"),
        (lambda n, d: b"big" if n.endswith("byteorder") else d, {}, "big-endian"),
    ],
    ids=["compressed", "missing", "short", "big-endian"],
)
def test_an_archive_with_wrong_members_is_refused(
    change: Any, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.zeros(100)}, path)
    repacked(path, change, **options)
    with pytest.raises(CheckpointFault, match=said):
        read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello world", b"\x00" * 100, b"<html>not found</html>", bytes(range(256))],
    ids=["empty", "text", "zeros", "page", "noise"],
)
def test_what_is_no_checkpoint_at_all_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointFault):
        read(path)


@pytest.mark.parametrize("content", [{}, {"model": {"a": 1}}, [1, 2], "text", None])
def test_a_file_without_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointFault, match=r"holds no tensors|not a table of tensors"):
        read(path, "model")


def test_the_file_is_read_up_to_the_pickles_end_only() -> None:
    from extractors.checkpoints.unpickle import unpickle

    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps({"a": 2}))
    assert [unpickle(stream), unpickle(stream)] == [[1], {"a": 2}]


def test_a_stored_tensor_knows_its_size(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.zeros(3, 5, dtype=torch.float16)}, path)
    with open_checkpoint(path) as content:
        tensor: StoredTensor = find_tensors(content)["w"]
    assert (tensor.dtype, tensor.nbytes) == ("float16", 30)
