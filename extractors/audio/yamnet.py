"""YAMNet with its AudioSet weights: a 1024-d embedding and 521 class scores for each window.

Source: the YAMNet description of AudioSet (MobileNet v1 on 0.96 s of log-mel) and Howard et al.,
"MobileNets", 2017. The weights are read from the graph file of an installed package; none of that
package's code is imported.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.audio.mel import YAMNET_OFFSET, log_mel, log_mel_patches
from extractors.grids import OWN_GRID
from extractors.lite_spec import YAMNET, YAMNET_SAMPLES, yamnet_spec
from extractors.runner import Runner
from extractors.spec import Encoded
from extractors.weights.find import find_weights
from extractors.windows import WindowGrid
from pipeline.core.errors import EnvironmentFault

PATCH = (96, 64)  # frames, bands

# (channels out, stride) of the depthwise-separable layers after the first convolution.
LAYERS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
FIRST_CHANNELS = 32


class SameConv(nn.Conv2d):
    """3x3 or 1x1 convolution with TensorFlow's SAME padding for even sizes, then ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        self.behind = kernel == 3 and stride == 2
        padding = 0 if self.behind else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        if self.behind:
            x = F.pad(x, (0, 1, 0, 1))
        return F.relu(super().forward(x), inplace=True)


class YAMNetNet(nn.Module):
    """The net with folded batch norm: log-mel patches to embeddings and class logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers())
        self.classifier = nn.Linear(YAMNET.dim, YAMNET.classes)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, 96, 64) log-mel to (N, 1024) embeddings and (N, 521) logits."""
        embedding = self.layers(patches).mean(dim=(2, 3))
        return embedding, self.classifier(embedding)


class YAMNetEncoder:
    """YAMNet as a window encoder; see `extractors.spec.AudioEncoder`.

    YAMNet hears 15,600 samples. Of a longer window the middle is taken, so that the middle of what
    the net hears is the centre of the step; of shorter ones see `extractors.lite_spec`.

    Args:
        net: The loaded net.
        device: Where it runs.
        grid: Where windows lie.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    def __init__(
        self,
        net: YAMNetNet,
        device: torch.device,
        *,
        grid: WindowGrid = OWN_GRID,
        threads: int | None = None,
    ) -> None:
        self.spec = yamnet_spec(grid)
        self.class_names = audioset_classes()
        self._grid = grid
        self._samples = grid.window_samples + self.spec.overhang
        self._first = (self._samples - YAMNET_SAMPLES) // 2  # sample that is heard
        self._net = net.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=16, device_chunk=512
        )

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        """Encode (N, window + overhang) mono sound; scores are independent probabilities."""
        if windows.ndim != 2 or windows.shape[1] != self._samples:
            raise ValueError(f"windows must be (N, {self._samples}), got {windows.shape}")
        heard = windows[:, self._first : self._first + YAMNET_SAMPLES]
        return self.embed_patches(log_mel(heard, offset=YAMNET_OFFSET).astype(np.float32))

    def embed_stretch(self, samples: NDArray[np.float32], count: int) -> Encoded:
        """Encode windows that follow each other; mels are computed once, whatever the overlap.

        See `extractors.spec.StretchEncoder`. The strides of its grids are whole frames of mel.
        """
        patches = log_mel_patches(
            samples[self._first :], offset=YAMNET_OFFSET, hop_seconds=self._grid.step_seconds
        )
        return self.embed_patches(patches[:count].astype(np.float32))

    def embed_patches(self, patches: NDArray[np.float32]) -> Encoded:
        """Encode (N, 96, 64) log-mel patches."""
        return Encoded(*self._run(patches))

    def _forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        embedding, logits = self._net(patches[:, None])
        return embedding, logits.sigmoid()


def audioset_classes() -> tuple[str, ...]:
    """Names of the 521 classes in the order of the scores.

    The table beside this module holds AudioSet's id and name of each class of YAMNet's class map.
    """
    table = files("extractors.audio").joinpath("audioset_classes.txt").read_text("utf-8")
    return tuple(line.split("\t")[1] for line in table.splitlines())


def load_yamnet(
    device: torch.device,
    *,
    grid: WindowGrid = OWN_GRID,
    threads: int | None = None,
    weights_dir: Path | None = None,
) -> YAMNetEncoder:
    """Load the net with its AudioSet weights.

    Args:
        device: Where it runs.
        grid: Where windows lie.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder in which weights are looked for first.

    Raises:
        EnvironmentFault: The weights are missing or damaged, or cannot be read.
    """
    state = read_graph(find_weights(YAMNET.weights, weights_dir=weights_dir))
    with torch.device("meta"):
        net = YAMNetNet()
    net.load_state_dict(state, strict=True, assign=True)
    return YAMNetEncoder(net.requires_grad_(False), device, grid=grid, threads=threads)


def _layers() -> Iterator[SameConv]:
    yield SameConv(1, FIRST_CHANNELS, 3, stride=2)
    inputs = FIRST_CHANNELS
    for outputs, stride in LAYERS:
        yield SameConv(inputs, inputs, 3, stride=stride, groups=inputs)
        yield SameConv(inputs, outputs, 1)
        inputs = outputs


# --- the public weights: an ONNX graph, its tensors beside it, both in one zip --------------------


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
