"""YAMNet with its AudioSet weights: a 1024-d embedding and 521 class scores for each window.

Source: the YAMNet description of AudioSet (MobileNet v1 on 0.96 s of log-mel) and Howard et al.,
"MobileNets", 2017. The weights are those of an installed package, none of whose code is imported,
or of Google's own export (`extractors.audio.yamnet_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.audio.mel import YAMNET_OFFSET, RunningLogMel, log_mel
from extractors.audio.yamnet_weights import read_export, read_graph
from extractors.checkpoints.check import refuse_other_net
from extractors.grids import OWN_GRID
from extractors.lite_spec import GOOGLE_YAMNET, YAMNET, YAMNET_SAMPLES
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec
from extractors.weights.find import find_weights
from extractors.windows import WindowGrid

PATCH = (96, 64)  # frames, bands

# (channels out, stride) of the depthwise-separable layers after the first convolution.
LAYERS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
FIRST_CHANNELS = 32


class SameConv(nn.Conv2d):
    """3x3 or 1x1 convolution with TensorFlow's SAME padding for even sizes, then ReLU or ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = False,
    ) -> None:
        self.behind = kernel == 3 and stride == 2
        self.relu6 = relu6
        padding = 0 if self.behind else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        if self.behind:
            x = F.pad(x, (0, 1, 0, 1))
        y = super().forward(x)
        return F.relu6(y, inplace=True) if self.relu6 else F.relu(y, inplace=True)


class YAMNetNet(nn.Module):
    """The net with folded batch norm: log-mel patches to embeddings and class logits.

    Args:
        relu6: Whether activations end at 6.
    """

    def __init__(self, *, relu6: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers(relu6=relu6))
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
        spec: Its description, for the grid.
        grid: Where windows lie.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    def __init__(
        self,
        net: YAMNetNet,
        device: torch.device,
        *,
        spec: EncoderSpec = YAMNET,
        grid: WindowGrid = OWN_GRID,
        threads: int | None = None,
    ) -> None:
        self.spec = spec
        self.class_names = audioset_classes()
        self._grid = grid
        self._mels = RunningLogMel(offset=YAMNET_OFFSET)
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
        """Encode windows that follow each other; mels of a file are computed once.

        See `extractors.spec.StretchEncoder`, and `RunningLogMel` for what stretches share. The
        strides of its grids are whole frames of mel.
        """
        heard = samples[self._first :]
        patches = self._mels.patches(heard, count, stride=self._grid.stride_samples)
        return self.embed_patches(patches.astype(np.float32))

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
    spec: EncoderSpec = YAMNET,
    grid: WindowGrid = OWN_GRID,
    threads: int | None = None,
    weights_dir: Path | None = None,
) -> YAMNetEncoder:
    """Load the net with its AudioSet weights.

    Args:
        device: Where it runs.
        spec: Its description, for the grid; its name says whose export it is.
        grid: Where windows lie.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder in which weights are looked for first.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net, or cannot be read.
    """
    google = spec.name == GOOGLE_YAMNET.name
    path = find_weights(spec.weights, weights_dir=weights_dir)
    state = read_export(path) if google else read_graph(path)
    with torch.device("meta"):
        net = YAMNetNet(relu6=google)
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    refuse_other_net(path, wanted, found, spec.weights)
    net.load_state_dict(state, strict=True, assign=True)
    return YAMNetEncoder(net.requires_grad_(False), device, spec=spec, grid=grid, threads=threads)


def _layers(*, relu6: bool) -> Iterator[SameConv]:
    yield SameConv(1, FIRST_CHANNELS, 3, stride=2, relu6=relu6)
    inputs = FIRST_CHANNELS
    for outputs, stride in LAYERS:
        yield SameConv(inputs, inputs, 3, stride=stride, groups=inputs, relu6=relu6)
        yield SameConv(inputs, outputs, 1, relu6=relu6)
        inputs = outputs
