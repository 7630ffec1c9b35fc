"""I3D: Inception-v1 with every filter inflated over time, as a net with folded batch norm.

Source: Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics
Dataset", CVPR 2017. Names of the layers are those of the public checkpoints, in lower case.

Two things differ between the public implementations, and both change the features; here they are
arguments. Batch norm's epsilon is 1e-3 in the original and 1e-5 in the port that made UnAV-100's
features (see `extractors.vision.i3d_keys.fold`). Padding is TensorFlow's SAME in the original; that
port always pads as if sizes were multiples of the stride. Where they are (windows of 16 or 24
frames, pictures of 224 pixels), both paddings are the same.

Shapes: N windows, C channels (3 colours or 2 directions of flow), T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.i3d_vggish_spec import Padding

Triple = tuple[int, int, int]

SIDE = 224  # height and width of the pictures
WIDTH = 1024  # of a feature
CLASSES = 400  # of Kinetics
LEAST_FRAMES = 10  # fewer leave one step in time where the last pooling wants two
POOLED_SIDE = 7  # height and width before the last pooling

# Channels of the Inception blocks: in; 1x1x1; 1x1x1 then 3x3x3, twice; pooling then 1x1x1.
MIXED = {
    "mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
STEM = ("conv3d_1a_7x7", "maxpool3d_2a_3x3", "conv3d_2b_1x1")  # no more than conv 1a looks in time


def pads(size: int, kernel: int, stride: int, scheme: Padding) -> tuple[int, int]:
    """Zeros in front of and behind one dimension.

    ``same`` is TensorFlow's rule, which gives ceil(size / stride) outputs; ``static`` is that rule
    for a size that is a multiple of the stride, whatever the size.
    """
    rest = size % stride if scheme == "same" else 0
    total = max(kernel - (rest or stride), 0)
    return total // 2, total - total // 2


def padded(x: Tensor, kernel: Triple, stride: Triple, scheme: Padding) -> Tensor:
    """(N, C, T, H, W) with the zeros that a layer wants."""
    sizes = zip(x.shape[2:], kernel, stride, strict=True)
    by_dimension = [pads(n, k, s, scheme) for n, k, s in sizes]
    front_and_behind = [count for pair in by_dimension[::-1] for count in pair]
    return F.pad(x, front_and_behind) if any(front_and_behind) else x


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int | Triple, padding: int | Triple = 0
) -> Tensor:
    """3-D convolution, by oneDNN wherever there is one.

    On one core and for one small input, torch's own choice falls on a path several times slower.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        strides = (stride,) * 3 if isinstance(stride, int) else stride
        around = (padding,) * 3 if isinstance(padding, int) else padding
        return torch.mkldnn_convolution(x, weight, bias, around, strides, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, stride, padding)


class Conv(nn.Conv3d):
    """Convolution with the same kernel length and stride in all directions, then ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, scheme: Padding = "same"
    ) -> None:
        self.scheme: Padding = scheme
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T, H, W) to (N, outputs, T', H', W')."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1 and x.device.type == "cpu":
            # A matrix product; torch's 3-D convolution takes its slowest way for it.
            weight = self.weight.view(self.out_channels, self.in_channels)
            y = F.linear(x.movedim(1, -1), weight, self.bias).movedim(-1, 1)
        else:
            if stride > 1:
                x = padded(x, (kernel,) * 3, (stride,) * 3, self.scheme)
            around = kernel // 2 if stride == 1 else 0  # then both schemes are symmetric
            y = convolve(x, self.weight, self.bias, stride, around)
        return F.relu(y, inplace=True)


class MaxPool(nn.Module):
    """Max pooling of values that are not negative, so that zeros around them change nothing.

    Args:
        kernel: Kernel length and stride over time.
        stride: Those over height and width: (kernel, stride).
        scheme: How it is padded.
    """

    def __init__(self, kernel: Triple, stride: Triple, *, scheme: Padding) -> None:
        super().__init__()
        self.kernel, self.stride, self.scheme = kernel, stride, scheme

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, T', H', W')."""
        whole = all(n % s == 0 for n, s in zip(x.shape[2:], self.stride, strict=True))
        if whole and max(self.stride) > 1:  # at most one zero behind: the same without a copy
            return F.max_pool3d(x, self.kernel, self.stride, ceil_mode=True)
        x = padded(x, self.kernel, self.stride, self.scheme)
        return F.max_pool3d(x, self.kernel, self.stride, ceil_mode=self.scheme == "static")


class Mixed(nn.Module):
    """Inception block; the three 1x1x1 convolutions of its input are one."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        inputs, plain, reduced_1, out_1, reduced_2, out_2, pooled = widths
        self.widths = (plain, reduced_1, reduced_2)
        self.entry = Conv(inputs, sum(self.widths), 1)
        self.branch_1 = Conv(reduced_1, out_1, 3)
        self.branch_2 = Conv(reduced_2, out_2, 3)
        self.branch_3 = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, T, H, W) to (N, outputs, T, H, W)."""
        plain, reduced_1, reduced_2 = self.entry(x).split(self.widths, dim=1)
        around = F.max_pool3d(x, 3, 1, 1)
        branches = (self.branch_1(reduced_1), self.branch_2(reduced_2), self.branch_3(around))
        return torch.cat((plain, *branches), dim=1)


class I3DNet(nn.Module):
    """The net: windows to features, and to logits of Kinetics' classes.

    Args:
        inputs: Channels of the input: 3 for RGB, 2 for flow.
        padding: How layers with a stride are padded.
    """

    def __init__(self, inputs: int = 3, *, padding: Padding = "static") -> None:
        super().__init__()
        self.inputs = inputs
        self.padding: Padding = padding

        def over_space() -> MaxPool:
            return MaxPool((1, 3, 3), (1, 2, 2), scheme=padding)

        def mixed(letters: str) -> dict[str, nn.Module]:
            return {name: Mixed(MIXED[name]) for name in MIXED if name[6] == letters}

        self.layers = nn.ModuleDict(
            {
                "conv3d_1a_7x7": Conv(inputs, 64, 7, stride=2, scheme=padding),
                "maxpool3d_2a_3x3": over_space(),
                "conv3d_2b_1x1": Conv(64, 64, 1),
                "conv3d_2c_3x3": Conv(64, 192, 3),
                "maxpool3d_3a_3x3": over_space(),
                **mixed("3"),
                "maxpool3d_4a_3x3": MaxPool((3, 3, 3), (2, 2, 2), scheme=padding),
                **mixed("4"),
                "maxpool3d_5a_2x2": MaxPool((2, 2, 2), (2, 2, 2), scheme=padding),
                **mixed("5"),
            }
        )
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        """(N, C, T, 224, 224) in [-1, 1] to (N, 1024), T of 10 or more.

        The last pooling is a mean over two neighbouring steps in time, the feature the mean of
        that: of six steps the inner ones count twice. 16 frames leave two steps, so that their
        feature is the plain mean; 24 leave three, which count 1/4, 1/2, 1/4.
        """
        return self.pooled(windows).mean(dim=2)

    def pooled(self, windows: Tensor) -> Tensor:
        """(N, C, T, 224, 224) to (N, 1024, T'): what the original calls its features."""
        x = windows
        for layer in self.layers.values():
            x = layer(x)
        return pool_last(x)

    def behind_stem(self, x: Tensor) -> Tensor:
        """What the layers of `STEM` answer, (N, 64, T', 56, 56), to (N, 1024)."""
        for name, layer in self.layers.items():
            if name not in STEM:
                x = layer(x)
        return pool_last(x).mean(dim=2)

    def logits(self, features: Tensor) -> Tensor:
        """(..., 1024) to (..., 400): class logits of Kinetics."""
        scores: Tensor = self.classifier(features)
        return scores


def pool_last(x: Tensor) -> Tensor:
    """(N, 1024, T', 7, 7) to (N, 1024, T' - 1)."""
    return F.avg_pool3d(x, (2, POOLED_SIDE, POOLED_SIDE), stride=1)[..., 0, 0]
