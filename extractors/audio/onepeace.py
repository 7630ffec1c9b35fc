"""ONE-PEACE's audio branch: one embedding of unit length for each window of sound.

Source: Wang et al., "ONE-PEACE", 2023. Each window is normalised by itself (zero mean, unit
variance) before the first convolution.

Shapes: N windows, S samples at 16 kHz, L tokens with the class token first (50 for one second),
D width.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.onepeace.layers import (
    NORM_EPS,
    ChannelNorm,
    Layer,
    RelativePositions,
    run_layers,
    sequence_buckets,
)
from extractors.onepeace.spec import (
    LEAST_SAMPLES,
    ONEPEACE,
    ONEPEACE_AUDIO,
    RELEASED_SIZE,
    OnePeaceSize,
    Precision,
)
from extractors.onepeace.weights import load_branch
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec

# (kernel, stride) of the convolutions over the waveform: one token every 320 samples.
CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
POSITION_KERNEL = 19
POSITION_GROUPS = 16
POSITION_LAYERS = 5
WINDOW_SAMPLES = ONEPEACE.grid.window_samples


class WaveformConv(nn.Module):
    """Convolution without bias, norm over channels, GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=False)
        self.norm = ChannelNorm(outputs, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, S) to (N, outputs, S / stride)."""
        return F.gelu(self.norm(self.conv(x)))


class SoundAdapter(nn.Module):
    """From waveforms to tokens behind a class token, and how far they are from each other."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        channels = size.sound_channels
        self.buckets = size.sound_buckets
        self.convs = nn.Sequential(
            *(
                WaveformConv(channels if index else 1, channels, kernel, stride)
                for index, (kernel, stride) in enumerate(CONVOLUTIONS)
            )
        )
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.project = nn.Linear(channels, size.dim)
        self.position_convs = nn.ModuleList(
            nn.Conv1d(
                size.dim,
                size.dim,
                POSITION_KERNEL,
                padding=POSITION_KERNEL // 2,
                groups=POSITION_GROUPS,
            )
            for _ in range(POSITION_LAYERS)
        )
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.positions = RelativePositions(size, 2 * size.sound_buckets + 2)

    def forward(self, sound: Tensor) -> Tensor:
        """(N, S) normalised sound to (N, L, D)."""
        x = self.project(self.norm(self.convs(sound[:, None]).transpose(1, 2)))
        x = x + self._absolute_positions(x)
        cls = (self.cls_embedding + self.cls_pos_embed).expand(len(x), -1, -1)
        return torch.cat([cls, x], dim=1)

    def biases(self, length: int, *, layers: int) -> list[Tensor]:
        """Attention bias of every layer, (1, H, L, L) each, for L = ``length`` tokens."""
        buckets = sequence_buckets(length - 1, buckets=self.buckets)
        return self.positions(buckets, layers=layers)

    def _absolute_positions(self, x: Tensor) -> Tensor:
        """(N, L - 1, D) to the same shape: what convolutions over the tokens say of their place."""
        y = x.transpose(1, 2)
        for conv in self.position_convs:
            normed = F.layer_norm(conv(y).transpose(1, 2), x.shape[2:], eps=NORM_EPS)
            y = F.gelu(normed.transpose(1, 2))
        return y.transpose(1, 2)


class OnePeaceAudio(nn.Module):
    """The audio branch: windows of one length to embeddings."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.adapter = SoundAdapter(size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.proj = nn.Linear(size.dim, size.dim)

    def forward(self, sound: Tensor, padding: Tensor | None = None) -> Tensor:
        """(N, S) normalised sound to (N, D) embeddings of unit length; see `tokens`."""
        return F.normalize(self.proj(self.tokens(sound, padding)[:, 0]).float(), dim=1)

    def tokens(self, sound: Tensor, padding: Tensor | None = None) -> Tensor:
        """Tokens behind the last norm.

        Args:
            sound: (N, S) normalised sound; shorter items with zeros behind.
            padding: (N, L) True for tokens that stand for those zeros; None for none. As in the
                public code, the position convolutions see them: an item changes slightly with the
                length that it is padded to.

        Returns:
            (N, L, D).
        """
        x = self.adapter(sound)
        biases = self.adapter.biases(x.shape[1], layers=len(self.layers))
        return self.norm(run_layers(self.layers, x, biases, padding))


class OnePeaceAudioEncoder:
    """ONE-PEACE's audio branch as a window encoder; see `extractors.spec.AudioEncoder`.

    Args:
        net: The loaded net.
        spec: Its description.
        samples: Samples of a window.
        device: Where it runs.
        dtype: Type of its weights and of the arithmetic.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        net: OnePeaceAudio,
        spec: EncoderSpec,
        *,
        samples: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        self.spec = spec
        self._net = net.eval()
        self._samples = samples
        self._heard = max(samples, LEAST_SAMPLES)
        self._dtype = dtype
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=4, device_chunk=64
        )

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        """Encode (N, S) mono sound; what has less than a window, or a second, is repeated."""
        if windows.ndim != 2 or not 1 <= windows.shape[1] <= self._samples:
            raise ValueError(f"windows must be (N, 1 to {self._samples}), got {windows.shape}")
        (embeddings,) = self._run(windows)
        return Encoded(embeddings, None)

    def _forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        # In this order, as the public code does it: repeating first would change the norm.
        normalised = F.layer_norm(windows, windows.shape[1:], eps=NORM_EPS)
        times = -(-self._heard // windows.shape[1])
        whole = normalised.repeat(1, times)[:, : self._heard]
        return (self._net(whole.to(self._dtype)),)


def load_onepeace_audio(
    device: torch.device,
    *,
    spec: EncoderSpec = ONEPEACE_AUDIO,
    size: OnePeaceSize = RELEASED_SIZE,
    samples: int = WINDOW_SAMPLES,
    precision: Precision = "float32",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> OnePeaceAudioEncoder:
    """Load the audio branch of ``one-peace.pt``.

    Args:
        device: Where it runs.
        spec: Its description.
        size: Its measures.
        samples: Samples of a window.
        precision: Type of its weights and of the arithmetic.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    net = load_branch(
        OnePeaceAudio,
        "audio",
        spec.weights,
        size=size,
        device=device,
        precision=precision,
        weights_dir=weights_dir,
    )
    dtype = getattr(torch, precision)
    return OnePeaceAudioEncoder(
        net, spec, samples=samples, device=device, dtype=dtype, threads=threads
    )
