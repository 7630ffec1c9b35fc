"""EfficientNet-Lite0 with its ImageNet weights: 1280-d embeddings and 1000 class scores a frame.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
ICML 2019; the Lite variant leaves out squeeze-and-excitation, uses ReLU6 for swish and keeps stem
and head at their base width. "SAME" padding is TensorFlow's: the odd row and column go behind.

Batch norm is folded into the convolutions when the weights are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.lite_spec import EFFICIENTNET_LITE0
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec
from extractors.weights.find import find_weights

TILE = 32  # the net halves a picture five times, so sides are multiples of 2^5
FEWEST_TILES, MOST_TILES = 40, 54  # 7 x 7 is the 224x224 that the net was trained at
SHORTEST_SIDE = 3
MEAN, SCALE = 127.0, 128.0  # x -> (x - MEAN) / SCALE, what the net was trained with
BATCH_NORM_EPS = 1e-3

# (expansion, kernel, stride, channels out, repeats) of each stage: Table 1 of the paper.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32


class SameConv(nn.Conv2d):
    """Convolution with a bias and TensorFlow's SAME padding, for even heights and widths.

    With stride 2 TensorFlow pads one more row and column behind than in front. One more tap in
    front of the kernel, always zero, says the same with equal padding, and saves the copy that
    padding one side costs.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        self.kernel = kernel
        taps = kernel if stride == 1 else kernel + 1
        super().__init__(inputs, outputs, taps, stride, kernel // 2, groups=groups)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; plus the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = SameConv(inputs, wide, 1) if expand > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self.project = SameConv(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return y.add_(x) if self.residual else y


class EfficientNetLite0(nn.Module):
    """The net with folded batch norm: pictures to embeddings and class logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.Sequential(*_blocks())
        self.head = SameConv(STAGES[-1][3], EFFICIENTNET_LITE0.dim, 1)
        self.classifier = nn.Linear(EFFICIENTNET_LITE0.dim, EFFICIENTNET_LITE0.classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) normalised RGB to (N, 1280) embeddings and (N, 1000) logits."""
        x = F.relu6(self.stem(x), inplace=True)
        x = F.relu6(self.head(self.blocks(x)), inplace=True)
        embedding = x.mean(dim=(2, 3))
        return embedding, self.classifier(embedding)


class EfficientNetEncoder:
    """EfficientNet-Lite0 as a frame encoder; see `extractors.spec.VisionEncoder`.

    Args:
        net: The loaded net.
        device: Where it runs.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    spec: EncoderSpec = EFFICIENTNET_LITE0

    def __init__(
        self, net: EfficientNetLite0, device: torch.device, *, threads: int | None = None
    ) -> None:
        self.class_names = imagenet_classes()
        self._net = net.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=4, device_chunk=128
        )

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The whole picture at (nearly) its own aspect and about as many pixels as 224x224.

        Objects keep their shape and nothing is cut off at the sides: 288x160 for 16:9.
        """
        return _nearest_size(width / height)

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode (N, H, W, 3) RGB pictures of a `frame_size`; scores are softmax probabilities."""
        height, width, channels = frames.shape[1:] if frames.ndim == 4 else (0, 0, 0)
        sides_fit = height and width and height % TILE == 0 and width % TILE == 0
        if not sides_fit or channels != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be (N, H, W, 3) uint8, H and W multiples of {TILE}, "
                f"got {frames.shape} {frames.dtype}"
            )
        return Encoded(*self._run(frames))

    def _forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        pixels = frames.permute(0, 3, 1, 2)  # NHWC memory, permuted, is what channels_last means
        embedding, logits = self._net((pixels.float() - MEAN) / SCALE)
        return embedding, logits.softmax(dim=1)


def _nearest_size(aspect: float) -> tuple[int, int]:
    """(width, height) whose aspect is nearest, of all sizes the net takes at its usual cost."""
    sides = range(SHORTEST_SIDE, MOST_TILES // SHORTEST_SIDE + 1)
    sizes = [(w, h) for w in sides for h in sides if FEWEST_TILES <= w * h <= MOST_TILES]
    width, height = min(
        sizes, key=lambda size: (abs(math.log(size[0] / size[1] / aspect)), -size[0] * size[1])
    )
    return width * TILE, height * TILE


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1000 classes in the order of the scores.

    The table beside this module holds WordNet id and synonyms of each class of ILSVRC 2012.
    Two classes are called "crane": the bird, 134, and the machine, 517.
    """
    table = files("extractors.vision").joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple(line.split("\t")[1] for line in table.splitlines())


def load_efficientnet_lite0(
    device: torch.device, *, threads: int | None = None, weights_dir: Path | None = None
) -> EfficientNetEncoder:
    """Load the net with its ImageNet weights.

    Args:
        device: Where it runs.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder in which weights are looked for first.

    Raises:
        EnvironmentFault: The weights are missing or damaged.
    """
    path = find_weights(EFFICIENTNET_LITE0.weights, weights_dir=weights_dir)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        net = EfficientNetLite0()
    net.load_state_dict(_widen_kernels(fold_checkpoint(checkpoint), net), assign=True)
    return EfficientNetEncoder(net.requires_grad_(False), device, threads=threads)


def _blocks() -> Iterator[Block]:
    inputs = STEM_CHANNELS
    for expand, kernel, stride, outputs, repeats in STAGES:
        for repeat in range(repeats):
            yield Block(
                inputs, outputs, expand=expand, kernel=kernel, stride=1 if repeat else stride
            )
            inputs = outputs


# --- the public checkpoint (keys of the widespread PyTorch port) ----------------------------------


def fold_checkpoint(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the public checkpoint's keys to ours and fold each batch norm into its convolution.

    w' = w * gamma / sqrt(var + eps),  b' = beta - mean * gamma / sqrt(var + eps), in float64.

    Args:
        checkpoint: State dict with keys ``_conv_stem.weight``, ``_bn0.weight``, ...,
            ``_blocks.3._depthwise_conv.weight``, ``_fc.bias``.

    Returns:
        Weights and biases under the names of `EfficientNetLite0`.
    """
    arrays = {name: tensor.numpy() for name, tensor in checkpoint.items()}
    folded = {
        "classifier.weight": checkpoint["_fc.weight"],
        "classifier.bias": checkpoint["_fc.bias"],
    }
    for ours, conv, norm in _names(checkpoint):
        gamma, beta, mean, var = (
            arrays[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + BATCH_NORM_EPS)
        weight = (arrays[f"{conv}.weight"] * scale[:, None, None, None]).astype(np.float32)
        folded[f"{ours}.weight"] = torch.from_numpy(weight)
        folded[f"{ours}.bias"] = torch.from_numpy((beta - mean * scale).astype(np.float32))
    return folded


def _widen_kernels(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Put the zero tap of `SameConv` in front of the kernels that have one."""
    for name, layer in net.named_modules():
        if isinstance(layer, SameConv) and layer.kernel_size[0] > layer.kernel:
            state[f"{name}.weight"] = F.pad(state[f"{name}.weight"], (1, 0, 1, 0))
    return state


def _names(checkpoint: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """(our layer, their convolution, their batch norm) of every convolution."""
    yield "stem", "_conv_stem", "_bn0"
    for index in range(sum(stage[4] for stage in STAGES)):
        theirs = f"_blocks.{index}"
        if f"{theirs}._expand_conv.weight" in checkpoint:
            yield f"blocks.{index}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"blocks.{index}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"blocks.{index}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
    yield "head", "_conv_head", "_bn1"
