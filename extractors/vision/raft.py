"""RAFT (large): where each pixel of a picture has moved to in the next one.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.
Names of the layers are those of the public checkpoints.

Shapes: N pairs of pictures, H height and W width in pixels, multiples of 8; h = H / 8, w = W / 8.
Flow is (N, 2, ...) in pixels, to the right and down.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ITERATIONS = 20
SCALE = 8  # the net works at an eighth of the resolution
SMALLEST_SIDE = 128  # below it the coarsest correlations are one pixel wide: a division by zero
LEVELS, RADIUS = 4, 4
HIDDEN, CONTEXT = 128, 128
FEATURES = 256
CORRELATIONS = LEVELS * (2 * RADIUS + 1) ** 2
MASK_SCALE = 0.25  # balances gradients in training, and so is part of the weights


class FrozenBatchNorm(nn.Module):
    """Batch norm with the statistics of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(channels))
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


Norm = type[FrozenBatchNorm] | type[nn.InstanceNorm2d]


class ResidualBlock(nn.Module):
    """Two convolutions with norms, plus the input, which a third one scales down where need be."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.downsample(x) + y)


class PictureEncoder(nn.Module):
    """Pictures to maps at an eighth of the resolution."""

    def __init__(self, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.norm1 = norm(64)
        self.layer1 = _stage(64, 64, norm, stride=1)
        self.layer2 = _stage(64, 96, norm, stride=2)
        self.layer3 = _stage(96, 128, norm, stride=2)
        self.conv2 = nn.Conv2d(128, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, outputs, h, w)."""
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlations and the flow so far, in 128 channels of which the last two are the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(CORRELATIONS, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, 128 - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        """(N, 2, h, w) and (N, 324, h, w) to (N, 128, h, w)."""
        seen = F.relu(self.convc2(F.relu(self.convc1(correlations))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([seen, moved], dim=1))), flow], dim=1)


class SeparableGRU(nn.Module):
    """A convolutional GRU along rows, then one along columns."""

    def __init__(self) -> None:
        super().__init__()
        inputs = HIDDEN + CONTEXT + 128
        for number, kernel, padding in ((1, (1, 5), (0, 2)), (2, (5, 1), (2, 0))):
            for gate in "zrq":
                conv = nn.Conv2d(inputs, HIDDEN, kernel, padding=padding)
                self.add_module(f"conv{gate}{number}", conv)

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(N, 128, h, w) state and (N, 256, h, w) input to the next state."""
        for number in (1, 2):
            z, r, q = (self.get_submodule(f"conv{gate}{number}") for gate in "zrq")
            both = torch.cat([hidden, x], dim=1)
            update, reset = z(both).sigmoid(), r(both).sigmoid()
            proposal = q(torch.cat([reset * hidden, x], dim=1)).tanh()
            hidden = (1 - update) * hidden + update * proposal
        return hidden


class FlowHead(nn.Module):
    """From the state to what is added to the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, 128, h, w) to (N, 2, h, w)."""
        return self.conv2(F.relu(self.conv1(hidden)))


class UpdateBlock(nn.Module):
    """One step towards the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SeparableGRU()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * SCALE**2, 1)
        )

    def forward(
        self, hidden: Tensor, context: Tensor, correlations: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next state and what is added to the flow."""
        motion = self.encoder(flow, correlations)
        hidden = self.gru(hidden, torch.cat([context, motion], dim=1))
        return hidden, self.flow_head(hidden)


class Raft(nn.Module):
    """The net.

    Args:
        iterations: Steps of the recurrence.
    """

    def __init__(self, *, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.iterations = iterations
        self.fnet = PictureEncoder(FEATURES, nn.InstanceNorm2d)
        self.cnet = PictureEncoder(HIDDEN + CONTEXT, FrozenBatchNorm)
        self.update_block = UpdateBlock()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow from one picture of each pair to the other.

        Args:
            first: (N, 3, H, W) RGB, 0..255.
            second: (N, 3, H, W) the next pictures.

        Returns:
            (N, 2, H, W) pixels.

        Raises:
            ValueError: H or W is no multiple of 8, or below 128.
        """
        sides = first.shape[2:]
        if min(sides) < SMALLEST_SIDE or sides[0] % SCALE or sides[1] % SCALE:
            raise ValueError(
                f"pictures of {sides[1]}x{sides[0]} pixels; RAFT wants sides of {SMALLEST_SIDE} "
                f"or more that are multiples of {SCALE}"
            )
        first, second = (2 * pictures / 255 - 1 for pictures in (first, second))
        pyramid = _pyramid(*self.fnet(torch.cat([first, second])).chunk(2))
        spans = [_span(correlations) for correlations in pyramid]
        hidden, context = self.cnet(first).split([HIDDEN, CONTEXT], dim=1)
        hidden, context = hidden.tanh(), context.relu()
        start = _coordinates(first.shape[0], first.shape[2] // SCALE, first.shape[3] // SCALE)
        start = start.to(first)
        place = start
        for _ in range(self.iterations):
            correlations = _look_up(pyramid, spans, place)
            hidden, step = self.update_block(hidden, context, correlations, place - start)
            place = place + step
        # Only the last state's mask is needed: the steps before are never scaled up.
        return _scale_up(place - start, MASK_SCALE * self.update_block.mask(hidden))


def _stage(inputs: int, outputs: int, norm: Norm, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(inputs, outputs, norm, stride=stride),
        ResidualBlock(outputs, outputs, norm, stride=1),
    )


def _coordinates(items: int, height: int, width: int) -> Tensor:
    """(N, 2, h, w): x and y of each place."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y])[None].expand(items, -1, -1, -1)


def _pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Correlation of every place of one map with every place of the other, ever coarser.

    (N, 256, h, w) twice to 4 tensors of (N * h * w, 1, h / 2^level, w / 2^level).
    """
    items, channels, height, width = first.shape
    products = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
    levels = [products.reshape(items * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2, stride=2))
    return levels


def _span(correlations: Tensor) -> Tensor:
    """Largest x and y of a map, on its device: made once, as a device waits for each such copy."""
    height, width = correlations.shape[2:]
    return torch.tensor([width - 1, height - 1], device=correlations.device)


def _look_up(pyramid: list[Tensor], spans: list[Tensor], place: Tensor) -> Tensor:
    """Correlations around the places that the flow points to.

    (N, 2, h, w) to (N, 324, h, w): for each level 9x9 neighbours, and of those the one index runs
    over x before the other runs over y, which is the order that the weights were trained in.
    """
    items, _, height, width = place.shape
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=place.device, dtype=place.dtype)
    x, y = torch.meshgrid(offsets, offsets, indexing="ij")
    around = torch.stack([x, y], dim=-1)
    centre = place.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, (correlations, span) in enumerate(zip(pyramid, spans, strict=True)):
        points = 2 * (centre / 2**level + around) / span - 1
        sampled = F.grid_sample(correlations, points, align_corners=True)
        found.append(sampled.view(items, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2)


def _scale_up(flow: Tensor, mask: Tensor) -> Tensor:
    """(N, 2, h, w) and (N, 576, h, w) to (N, 2, H, W): weighted means of the 3x3 neighbours."""
    items, _, height, width = flow.shape
    weights = mask.view(items, 1, 9, SCALE, SCALE, height, width).softmax(dim=2)
    around = F.unfold(SCALE * flow, 3, padding=1).view(items, 2, 9, 1, 1, height, width)
    fine = (weights * around).sum(dim=2)  # (N, 2, row in 8, column in 8, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(items, 2, SCALE * height, SCALE * width)
