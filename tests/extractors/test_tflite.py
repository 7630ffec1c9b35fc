"""TensorFlow Lite models are read without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.tflite import read_tflite
from fixtures.tflite import (
    ADDITION,
    CONVOLUTION,
    DENSE,
    DEPTHWISE,
    Constant,
    write_tflite,
)

RANDOM = np.random.default_rng(0)


def integers(*shape: int, dtype: str = "i1") -> np.ndarray:
    return RANDOM.integers(-100, 100, shape).astype(dtype)


KERNEL = Constant(integers(2, 3, 3, 1), (0.5, 0.25))
KERNEL_BIAS = Constant(integers(2, dtype="<i4"), (0.125, 2.0))
BY_CHANNEL = Constant(integers(1, 3, 3, 2), (1.0, 4.0), axis=3)
CHANNEL_BIAS = Constant(integers(2, dtype="<i4"), (0.5, 0.5))
MATRIX = Constant(integers(4, 2), (0.03125,))
MATRIX_BIAS = Constant(integers(4, dtype="<i4"), (0.0625,))
FLOATS = (Constant(np.ones((3, 5), "<f4")), Constant(np.ones(3, "<f4")))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A front end in floats, an operator that is no layer, and three layers."""
    return write_tflite(
        tmp_path / "net.tflite",
        [
            (DENSE, FLOATS),
            (CONVOLUTION, (KERNEL, KERNEL_BIAS)),
            (ADDITION, (MATRIX_BIAS, MATRIX_BIAS)),
            (DEPTHWISE, (BY_CHANNEL, CHANNEL_BIAS)),
            (DENSE, (MATRIX, MATRIX_BIAS)),
        ],
    )


def test_layers_come_in_the_order_of_the_run_as_the_numbers_that_are_meant(model: Path) -> None:
    layers = read_tflite(model)
    assert [layer.kind for layer in layers] == ["convolution", "depthwise", "dense"]
    scaled = (
        (KERNEL, np.array([0.5, 0.25]).reshape(2, 1, 1, 1)),
        (BY_CHANNEL, np.array([1.0, 4.0])),
        (MATRIX, 0.03125),
    )
    for layer, (constant, scale) in zip(layers, scaled, strict=True):
        np.testing.assert_array_equal(layer.weight, constant.values * scale)
        assert layer.weight.dtype == layer.bias.dtype == np.float32
    np.testing.assert_array_equal(layers[0].bias, KERNEL_BIAS.values * [0.125, 2.0])
    np.testing.assert_array_equal(layers[2].bias, MATRIX_BIAS.values * 0.0625)


def test_a_model_cut_off_anywhere_is_refused(model: Path) -> None:
    content = model.read_bytes()
    for length in (*range(0, len(content), 29), len(content) - 1):
        model.write_bytes(content[:length])
        with pytest.raises(CheckpointFault, match=r"cut off|no TensorFlow Lite"):
            read_tflite(model)


def test_a_changed_byte_is_refused_or_read_but_never_more(model: Path) -> None:
    """No other error, and no more memory than the file has."""
    content = model.read_bytes()
    for place in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        model.write_bytes(damaged)
        try:
            layers = read_tflite(model)
        except CheckpointFault:
            continue
        assert sum(layer.weight.size for layer in layers) < len(content)


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ((Constant(integers(4, 2)), MATRIX_BIAS), "not scaled around zero"),
        ((Constant(integers(4, 2), (0.5,), zero=3), MATRIX_BIAS), "not scaled around zero"),
        ((MATRIX, None), "without a bias"),
    ],
    ids=["no-scale", "zero-elsewhere", "no-bias"],
)
def test_weights_of_another_kind_are_refused(
    constants: tuple[Constant, ...], said: str, tmp_path: Path
) -> None:
    path = write_tflite(tmp_path / "net.tflite", [(DENSE, constants)])
    with pytest.raises(CheckpointFault, match=said):
        read_tflite(path)
