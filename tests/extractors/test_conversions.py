"""Converted branches of ONE-PEACE: found, verified by the hash that they carry, or refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.audio.onepeace import load_onepeace_audio
from extractors.onepeace.conversions import (
    HASH_FIELD,
    are_converted,
    conversions_of,
    verify_conversion,
)
from extractors.onepeace.spec import BASE_WEIGHTS, K400_WEIGHTS
from extractors.preview import preview_spec
from extractors.registry import backbone_spec
from extractors.storage.safetensors_io import TensorSource, read_header, value_offset, write_tensors
from extractors.weights.watch import Silent
from fixtures.onepeace import TINY, write_base
from pipeline.core.errors import EnvironmentFault


class Notebook(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted branch and the checkpoint that it was made of."""
    folder = tmp_path_factory.mktemp("onepeace")
    write_base(folder)
    load_onepeace_audio(torch.device("cpu"), size=TINY, weights_dir=folder, threads=1)
    return folder


@pytest.fixture
def branch(folder: Path, tmp_path: Path) -> Path:
    """A copy of the converted branch, alone."""
    return Path(shutil.copy(folder / "onepeace-audio.safetensors", tmp_path))


def test_a_conversion_is_verified_without_its_checkpoint(branch: Path) -> None:
    said = verify_conversion(branch)
    promised = read_header(branch).metadata[HASH_FIELD]
    assert said == f"ok (SHA-256 of its tensors {promised}, as converted from {BASE_WEIGHTS.file})"
    assert set(promised) <= set("0123456789abcdef") and promised != "0" * 64


def flip(content: bytes) -> bytes:
    """One bit of a weight."""
    changed = bytearray(content)
    changed[-100] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "its tensors have SHA-256 .* where .* was written"),
        (lambda content: content[:-100], "it has .* bytes instead of"),
        (lambda content: content[:3], "its header is cut off"),
        (
            lambda content: content.replace(b'"conversion":"1"', b'"conversion":"0"'),
            "was not made by this version",
        ),
        (lambda content: content.replace(b'"F32"', b'"F99"', 1), "header of its array .* damaged"),
    ],
    ids=["bit", "cut", "header", "version", "type"],
)
def test_a_damaged_conversion_is_refused_with_the_reason(
    branch: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    branch.write_bytes(change(branch.read_bytes()))
    with pytest.raises(EnvironmentFault, match=rf"audio\.safetensors is refused: .*{said}"):
        verify_conversion(branch)


def test_a_conversion_without_a_hash_is_neither_right_nor_wrong(branch: Path) -> None:
    content = branch.read_bytes()
    name = f'"{HASH_FIELD}"'.encode()
    branch.write_bytes(content.replace(name, b'"data_sha999"'))
    assert verify_conversion(branch).startswith("unknown (converted from one-peace.pt without")


def test_a_branch_stands_for_its_checkpoint(folder: Path, tmp_path: Path, branch: Path) -> None:
    made = conversions_of(backbone_spec("onepeace"))
    assert are_converted(made[BASE_WEIGHTS.file], weights_dir=tmp_path)
    assert not are_converted(made[K400_WEIGHTS.file], weights_dir=tmp_path)
    assert not conversions_of(backbone_spec("lite"))
    assert not are_converted((), weights_dir=tmp_path)


def test_a_preview_asks_for_nothing_that_was_converted(
    branch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_OFFLINE", "0")
    said = Notebook()
    preview_spec("onepeace", weights_dir=tmp_path, watch=said)
    [line] = said.lines
    assert line.startswith(f"would download, once: {K400_WEIGHTS.file} (about 6,628,527,048 bytes")
    assert BASE_WEIGHTS.file not in line
    said = Notebook()
    preview_spec("onepeace", weights_dir=tmp_path, offline=True, watch=said)
    assert said.lines[0].startswith(f"would fail for lack of: {K400_WEIGHTS.file}")


@pytest.mark.parametrize("key", ["one", "two", "three"])
def test_a_value_lies_where_it_is_said_to(key: str) -> None:
    metadata = {"one": "ä€\n", "two": 'with "quotes"', "three": "0000"}
    metadata[key] = "0000"
    handle = io.BytesIO()
    source = TensorSource("a", "<f4", (3,), [np.arange(3, dtype="<f4").tobytes()])
    write_tensors(handle, [source], metadata)
    place = value_offset(metadata, key)
    content = handle.getvalue()
    assert content[place - 1 : place + 5] == b'"0000"'
    handle.seek(place)
    handle.write(b"1234")
    header = json.loads(handle.getvalue()[8:].partition(b"}}")[0].decode() + "}}")
    assert header["__metadata__"] == metadata | {key: "1234"}
