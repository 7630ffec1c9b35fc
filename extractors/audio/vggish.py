"""VGGish: a 128-d embedding of 0.975 s of sound.

Source: Hershey et al., "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017; names
of the layers are those of the public PyTorch port. Whether a ReLU follows the last layer differs
between the public implementations (the port: yes; TensorFlow's: no), and so is an argument.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.audio.mel import (
    HOP,
    PATCH_FRAMES,
    VGGISH_OFFSET,
    RunningLogMel,
    log_mel,
    log_mel_patches,
)
from extractors.audio.vggish_pca import VggishPca, load_vggish_pca
from extractors.checkpoints.check import refuse_other_net
from extractors.checkpoints.load import load_state
from extractors.grids import OWN_GRID
from extractors.i3d_vggish_spec import (
    PATCH_SAMPLES,
    VGGISH,
    VGGISH_VARIANTS,
    VGGISH_WEIGHTS,
    vggish_spec,
)
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec, WeightsFile
from extractors.weights.find import find_weights
from extractors.windows import WindowGrid

WIDTHS = (64, 128, 256, 256, 512, 512)
POOLED = (0, 1, 3, 5)  # convolutions that 2x2 max pooling follows
POST_PROCESSING = "pproc."  # what some checkpoints hold besides the net
HIDDEN, WIDTH = 4096, 128
MAP = 6 * 4  # places that a patch of 96 x 64 leaves behind four poolings


class VGGishNet(nn.Module):
    """The net: log-mel patches to embeddings.

    Args:
        final_relu: Whether a ReLU follows the last layer.
    """

    def __init__(self, *, final_relu: bool = True) -> None:
        super().__init__()
        self.final_relu = final_relu
        layers: list[nn.Module] = []
        inputs = 1
        for index, outputs in enumerate(WIDTHS):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if index in POOLED else []
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(MAP * inputs, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, WIDTH),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 1, 96, 64) log-mel to (N, 128)."""
        embedding: Tensor = self.embeddings(self.flat(patches))
        return F.relu(embedding) if self.final_relu else embedding

    def flat(self, patches: Tensor) -> Tensor:
        """(N, 1, 96, 64) to (N, 12288): height, width, channels, as TensorFlow orders them."""
        maps: Tensor = self.features(patches)
        return maps.permute(0, 2, 3, 1).flatten(1)


class VGGishEncoder:
    """VGGish as a window encoder; see `extractors.spec.AudioEncoder`.

    Args:
        net: The loaded net.
        spec: Its description.
        grid: Where windows lie.
        device: Where it runs.
        threads: CPU cores to use; None takes torch's number of threads.
        pca: Post-processing; None for none.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        net: VGGishNet,
        spec: EncoderSpec,
        *,
        grid: WindowGrid,
        device: torch.device,
        threads: int | None = None,
        pca: VggishPca | None = None,
    ) -> None:
        self.spec = spec
        self._grid = grid
        self._pca = pca
        self._heard = grid.window_samples + spec.overhang
        self._mels = RunningLogMel(offset=VGGISH_OFFSET)
        self._net = net.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=16, device_chunk=512
        )

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        """Encode (N, window + overhang) mono sound; the first 15,600 samples of each are heard."""
        if windows.ndim != 2 or windows.shape[1] != self._heard:
            raise ValueError(f"windows must be (N, {self._heard}), got {windows.shape}")
        return self.embed_patches(log_mel(windows[:, :PATCH_SAMPLES], offset=VGGISH_OFFSET))

    def embed_stretch(self, samples: NDArray[np.float32], count: int) -> Encoded:
        """Encode windows that follow each other; mels of a file are computed once.

        See `extractors.spec.StretchEncoder`, and `RunningLogMel` for what stretches share.
        """
        stride = self._grid.stride_samples
        if stride % HOP:
            begins = np.arange(count)[:, None] * stride
            return self.embed(samples[begins + np.arange(self._heard)])
        return self.embed_patches(self._mels.patches(samples, count, stride=stride))

    def embed_sound(self, waveform: ArrayLike, *, hop_seconds: float = 0.96) -> Encoded:
        """Encode a whole sound as the published extractor does, off any grid.

        Args:
            waveform: (S,) mono sound in [-1, 1] at 16 kHz.
            hop_seconds: Seconds from one embedding to the next: 0.96 as published, 0.32 for
                UnAV-100.
        """
        return self.embed_patches(
            log_mel_patches(waveform, offset=VGGISH_OFFSET, hop_seconds=hop_seconds)
        )

    def embed_patches(self, patches: NDArray[np.floating]) -> Encoded:
        """Encode (N, 96, 64) log-mel patches."""
        if patches.shape[1:2] != (PATCH_FRAMES,):
            raise ValueError(f"patches must be (N, 96, 64), got {patches.shape}")
        (embeddings,) = self._run(np.ascontiguousarray(patches, dtype=np.float32))
        return Encoded(embeddings if self._pca is None else self._pca(embeddings), None)

    def _forward(self, patches: Tensor) -> tuple[Tensor, ...]:
        return (self._net(patches[:, None]),)


def load_vggish(
    device: torch.device,
    *,
    name: str = VGGISH,
    grid: WindowGrid = OWN_GRID,
    weights: WeightsFile = VGGISH_WEIGHTS,
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> VGGishEncoder:
    """Load VGGish; its description says how the switches stand.

    Args:
        device: Where it runs.
        name: Which, of `extractors.i3d_vggish_spec.VGGISH_VARIANTS`.
        grid: Where windows lie.
        weights: The checkpoint.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    spec, variant = replace(vggish_spec(grid, name), weights=weights), VGGISH_VARIANTS[name]
    net = load_vggish_net(weights, final_relu=variant.final_relu, weights_dir=weights_dir)
    pca = None
    if variant.post_processing != "none":
        pca = load_vggish_pca(rounding=variant.post_processing, weights_dir=weights_dir)
    return VGGishEncoder(net, spec, grid=grid, device=device, threads=threads, pca=pca)


def load_vggish_net(
    weights: WeightsFile = VGGISH_WEIGHTS,
    *,
    final_relu: bool = True,
    weights_dir: str | os.PathLike[str] | None = None,
) -> VGGishNet:
    """Load the net from the public PyTorch checkpoint.

    Args:
        weights: The checkpoint.
        final_relu: Whether a ReLU follows the last layer.
        weights_dir: Folder in which it is looked for first.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    path = find_weights(weights, weights_dir=weights_dir)
    with torch.device("meta"):
        net = VGGishNet(final_relu=final_relu)
    state = _of_net(load_state(path, weights, "state_dict"))
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    refuse_other_net(path, wanted, found, weights)
    net.load_state_dict(state, strict=True, assign=True)
    return net.eval().requires_grad_(False)


def _of_net(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.float()
        for name, tensor in state.items()
        if not name.startswith(POST_PROCESSING)
    }
