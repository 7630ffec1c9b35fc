"""The nets that `workflows.bench.backbones` measures: random weights, and inputs of the real shape.

Nothing is downloaded. Weights are drawn so that values keep their size from layer to layer (He et
al., "Delving Deep into Rectifiers", ICCV 2015) and no net answers the same to every input: only
then does the distance between two precisions say something. Released weights are other weights; how
near half precision comes with them has to be measured with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from extractors.audio.mel import SAMPLE_RATE, VGGISH_OFFSET, log_mel
from extractors.audio.onepeace import WINDOW_SAMPLES, OnePeaceAudio
from extractors.audio.vggish import VGGishNet
from extractors.i3d_vggish_spec import PATCH_SAMPLES
from extractors.joint import DEVICE_ROWS
from extractors.onepeace.spec import RELEASED_SIZE, OnePeaceSize
from extractors.vision.i3d_net import LEAST_FRAMES, SIDE, I3DNet
from extractors.vision.i3d_overlap import to_net
from extractors.vision.onepeace import MEAN, STD, OnePeaceVideo
from extractors.vision.raft import ITERATIONS, SMALLEST_SIDE, Raft
from extractors.vision.raft_flow import pad_to_scale
from extractors.windows import WindowGrid

RAFT_SIZE = (256, 455)  # a 16:9 picture with a shorter side of 256; RAFT pads it to 456
TINY_SIZE = OnePeaceSize(
    dim=64,
    heads=4,
    ffn=128,
    layers=3,
    patch_channels=16,
    image_side=64,
    adapter=16,
    sound_channels=32,
    sound_buckets=32,
)
TINY_ITERATIONS = 2
WAVES = 4  # gratings of a picture, overtones of a sound


@dataclass(frozen=True, slots=True)
class BackboneCase:
    """One net and what it is fed with.

    Attributes:
        name: As on the command line.
        title: Net and input in words.
        unit: What one row of a batch is.
        rows: Rows of a batch in extraction, by kind of device; ``cuda`` stands for all others.
        net: Makes the net, wherever torch's default device is.
        draw: From N to N different rows on the CPU, as an extractor hands them to the device.
        prepare: From rows on a device and a type to the net's arguments, as the extractor does it.
        directions: 2 or 3 directions of the convolutions that the net is made of; 0 for a
            transformer, for which the order of its weights in memory is no question.
        channels_last: Kinds of device on which extraction keeps weights with the channels last.
    """

    name: str
    title: str
    unit: str
    rows: Mapping[str, int]
    net: Callable[[], nn.Module]
    draw: Callable[[int], Tensor]
    prepare: Callable[[Tensor, torch.dtype], tuple[Tensor, ...]]
    directions: int = 0
    channels_last: frozenset[str] = frozenset()

    def make(self, device: torch.device, *, seed: int = 0) -> nn.Module:
        """The net in float32; the same weights for one seed on one kind of device."""
        with torch.device("meta"):
            net = self.net()
        net = net.to_empty(device=device).eval().requires_grad_(False)
        fill_weights(net, torch.Generator(device).manual_seed(seed))
        return net

    def flops(self) -> int:
        """Floating-point operations of one row, 2 for a multiply-add.

        Products of matrices and convolutions by their definition, however a kernel computes them,
        as in `model.cost`. The net is not allocated.
        """
        counter = FlopCounterMode(display=False)
        inputs = self.prepare(self.draw(1).to("meta"), torch.float32)
        with torch.device("meta"):
            net = self.net().eval()
        # In its plain form attention is two products of matrices, which the counter knows.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            net(*inputs)
        return int(counter.get_total_flops())


def backbone_cases(*, tiny: bool = False) -> dict[str, BackboneCase]:
    """All nets by name.

    Args:
        tiny: ONE-PEACE narrow and with 3 layers, RAFT with 2 iterations on its smallest picture,
            I3D on its fewest frames: for a look at whether everything runs. VGGish stays.
    """
    size = TINY_SIZE if tiny else RELEASED_SIZE
    cases = (
        _i3d(LEAST_FRAMES if tiny else WindowGrid().window),
        _raft((SMALLEST_SIDE,) * 2, TINY_ITERATIONS) if tiny else _raft(RAFT_SIZE, ITERATIONS),
        _vggish(),
        _onepeace_video(size),
        _onepeace_audio(size),
    )
    return {case.name: case for case in cases}


@torch.no_grad()
def fill_weights(net: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights, in place.

    Kernels with a variance of 2 / inputs, scales of norms around 1, all else around 0; the last
    layer of RAFT's flow smaller, so that the flow stays on the picture for 20 steps.
    """
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        leaf = name.rpartition(".")[2]
        if leaf == "running_var":
            tensor.normal_(0, 0.2, generator=generator).exp_()
        elif leaf == "weight" and tensor.ndim == 1:
            tensor.normal_(1, 0.1, generator=generator)
        elif leaf == "weight":
            scale = math.sqrt(2 / math.prod(tensor.shape[1:]))
            tensor.normal_(0, scale, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)
        if "flow_head.conv2" in name:
            tensor.mul_(0.05)


def moving_pictures(count: int, frames: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Windows of drifting coloured gratings and noise, (N, T, H, W, 3) uint8.

    Every window has its own brightness, colours, directions and speeds: to noise alone, a net that
    takes means over places gives nearly one answer.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = (torch.arange(length).float() for length in (frames, height, width))
    t, y, x = torch.meshgrid(*axes, indexing="ij")
    windows = torch.empty(count, frames, height, width, 3, dtype=torch.uint8)
    for window in windows:
        values = torch.empty(window.shape).normal_(0, 8, generator=generator)
        values += _between(60, 195, (3,), generator)
        for _ in range(WAVES):
            across, down = _between(-12, 12, (2,), generator) / min(height, width)
            speed = _between(-0.1, 0.1, (), generator)  # periods a frame
            grating = (2 * math.pi * (across * x + down * y + speed * t)).sin()
            values += grating[..., None] * _between(-60, 60, (3,), generator)
        window.copy_(values.clamp_(0, 255))
    return windows


def sounds(count: int, samples: int, *, seed: int = 0) -> Tensor:
    """Windows of a tone with overtones, swelling and ebbing, and noise: (N, S) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    seconds = torch.arange(samples) / SAMPLE_RATE
    windows = torch.empty(count, samples)
    for window in windows:
        window.normal_(0, 1, generator=generator).mul_(_between(0.002, 0.1, (), generator))
        tone = 100 * 2 ** _between(0, 4, (), generator)
        swell = 0.6 + 0.4 * (2 * math.pi * _between(1, 8, (), generator) * seconds).sin()
        for overtone, loudness in enumerate(_between(0, 0.2, (WAVES,), generator), start=1):
            window += loudness * swell * (2 * math.pi * overtone * tone * seconds).sin()
    return windows.clamp_(-1, 1)


def _i3d(frames: int) -> BackboneCase:
    return BackboneCase(
        "i3d-rgb",
        f"I3D RGB, {frames} x {SIDE}x{SIDE}",
        "window",
        _rows(cpu=1, others=16),
        I3DNet,
        lambda count: moving_pictures(count, frames, SIDE, SIDE),
        lambda rows, dtype: (to_net(rows).to(dtype),),
        directions=3,
        channels_last=frozenset({"cpu"}),
    )


def _raft(size: tuple[int, int], iterations: int) -> BackboneCase:
    def prepare(pairs: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        first, second = pad_to_scale(pairs.permute(1, 0, 4, 2, 3).float()).to(dtype)
        return first, second

    return BackboneCase(
        "raft",
        f"RAFT large, {iterations} iterations, 2 x {size[1]}x{size[0]}",
        "frame pair",
        _rows(cpu=1, others=16),
        lambda: Raft(iterations=iterations),
        lambda count: moving_pictures(count, 2, *size),
        prepare,
        directions=2,
    )


def _vggish() -> BackboneCase:
    def draw(count: int) -> Tensor:
        mels = log_mel(sounds(count, PATCH_SAMPLES).numpy(), offset=VGGISH_OFFSET)
        return torch.from_numpy(mels).float()

    return BackboneCase(
        "vggish",
        "VGGish, 96 x 64 log-mel values of 0.975 s",
        "window",
        _rows(cpu=16, others=512),
        VGGishNet,
        draw,
        lambda rows, dtype: (rows[:, None].to(dtype),),
        directions=2,
        channels_last=frozenset({"cpu", "cuda"}),
    )


def _onepeace_video(size: OnePeaceSize) -> BackboneCase:
    side = size.image_side

    def prepare(frames: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        mean, std = _mean_and_std(frames.device)
        pixels = frames.permute(0, 1, 4, 2, 3).float()
        return (((pixels - mean) / std).to(dtype),)

    return BackboneCase(
        "onepeace-video",
        f"ONE-PEACE video, {size.layers} layers, {size.frames} x {side}x{side}",
        "window",
        _rows(cpu=1, others=4),
        lambda: OnePeaceVideo(size),
        lambda count: moving_pictures(count, size.frames, side, side),
        prepare,
    )


def _onepeace_audio(size: OnePeaceSize) -> BackboneCase:
    return BackboneCase(
        "onepeace-audio",
        f"ONE-PEACE audio, {size.layers} layers, {WINDOW_SAMPLES} samples",
        "window",
        _rows(cpu=4, others=64),
        lambda: OnePeaceAudio(size),
        lambda count: sounds(count, WINDOW_SAMPLES),
        lambda rows, dtype: (F.layer_norm(rows, rows.shape[1:]).to(dtype),),
    )


def _rows(*, cpu: int, others: int) -> Mapping[str, int]:
    """What the encoders give their `extractors.runner.Runner`."""
    return MappingProxyType({"cpu": cpu, "cuda": min(others, DEVICE_ROWS)})


@cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """On the device once and for all: a copy in every pass would make the device wait."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std


def _between(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
