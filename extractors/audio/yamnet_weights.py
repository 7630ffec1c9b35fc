"""YAMNet's weights out of the two files that they are published in.

| file | what it is |
|---|---|
| ``YamNet_w8a8.onnx.zip`` | a training with ReLU, exported by others, inside an installed package |
| ``yamnet_audio_classifier_with_metadata.tflite`` | Google's own export, with ReLU6 |

Both hold 27 convolutions and a dense layer with batch norm folded, their weights rounded to 8 bits.
Here they are float32. They are no two exports of one net: their filters differ.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.tflite import TfliteLayer, read_tflite
from pipeline.core.errors import EnvironmentFault


def read_export(path: Path) -> dict[str, Tensor]:
    """Read the net's weights from Google's TensorFlow Lite file.

    The arithmetic of 8 bits between the layers, and the front end, which the file holds too, are
    left out.

    Args:
        path: The file.

    Returns:
        State dict of `extractors.audio.yamnet.YAMNetNet`.

    Raises:
        EnvironmentFault: The file cannot be read, is damaged, or is no chain of such layers.
    """
    try:
        *layers, last = read_tflite(path)
        kernels = [_own_order(layer) for layer in layers]
    except (CheckpointFault, ValueError) as error:
        raise EnvironmentFault(f"{path} is refused: {error}") from error
    except OSError as error:
        raise EnvironmentFault(f"{path}: the weights cannot be read ({error.strerror})") from error
    state = {"classifier.weight": last.weight, "classifier.bias": last.bias}
    for index, (layer, kernel) in enumerate(zip(layers, kernels, strict=True)):
        state[f"layers.{index}.weight"] = kernel
        state[f"layers.{index}.bias"] = layer.bias
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}


def _own_order(layer: TfliteLayer) -> NDArray[np.float32]:
    """A kernel as (out, in, H, W); depthwise ones as (channels, 1, H, W)."""
    depthwise = layer.kind == "depthwise"
    return layer.weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))


def read_graph(path: Path) -> dict[str, Tensor]:
    """Read the net's weights from the zipped ONNX graph.

    The graph is a chain of 27 convolutions and one linear layer with batch norm already folded.
    Its weights are float32 numbers that were rounded to int8 steps; the quantise and dequantise
    nodes around the activations, which emulate int8 arithmetic, are left out.

    Args:
        path: The zip, holding ``model.onnx`` and ``model.data`` in one folder.

    Returns:
        State dict of `YAMNetNet`.

    Raises:
        EnvironmentFault: The onnx package is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise EnvironmentFault(
            f"reading the YAMNet weights needs the package onnx: {error}", hint="pip install onnx"
        ) from error
    with zipfile.ZipFile(path) as archive:
        members = {Path(name).name: name for name in archive.namelist()}
        graph = onnx.load_model_from_string(archive.read(members["model.onnx"])).graph
        data = archive.read(members["model.data"])
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    quantised = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    state, index = {}, 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        layer = "classifier" if node.op_type == "Gemm" else f"layers.{index}"
        index += 1
        for part, name in zip(("weight", "bias"), node.input[1:], strict=True):
            while name in quantised:
                name = quantised[name]
            state[f"{layer}.{part}"] = torch.from_numpy(_read_tensor(tensors[name], data))
    return state


def _read_tensor(tensor: Any, data: bytes) -> NDArray[np.float32]:
    """One float32 tensor of the graph, from its own bytes or from the file beside it."""
    from onnx import numpy_helper

    place = {entry.key: entry.value for entry in tensor.external_data}
    if "offset" not in place:
        return np.array(numpy_helper.to_array(tensor), dtype=np.float32)
    count = int(place["length"]) // np.dtype(np.float32).itemsize
    values = np.frombuffer(data, dtype="<f4", count=count, offset=int(place["offset"]))
    return values.astype(np.float32).reshape(tuple(tensor.dims))
