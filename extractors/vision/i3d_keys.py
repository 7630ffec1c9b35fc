"""Names of I3D's weights in the three public families of checkpoints, and the way to ours.

| family | example |
|---|---|
| video_features, hassony2 | ``mixed_3b.branch_1.0.conv3d.weight`` |
| piergiaj | ``Mixed_3b.b1a.conv3d.weight`` |
| DeepMind (TensorFlow) | ``RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d/w`` |

Source: the key listings of those checkpoints (facts about files, no code).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from extractors.i3d_vggish_spec import ORIGINAL, VIDEO_FEATURES
from extractors.vision.i3d_net import MIXED

BN_EPS_ORIGINAL = ORIGINAL.bn_eps  # TensorFlow's net; its PyTorch port by piergiaj
# PyTorch's default, left in place by the port that made UnAV-100.
BN_EPS_VIDEO_FEATURES = VIDEO_FEATURES.bn_eps

SINGLE = ("conv3d_1a_7x7", "conv3d_2b_1x1", "conv3d_2c_3x3")
BRANCHES = ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1")
PIERGIAJ_BRANCHES = dict(zip(BRANCHES, ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), strict=True))
TF_BRANCHES = {
    "branch_0": "Branch_0/Conv3d_0a_1x1",
    "branch_1.0": "Branch_1/Conv3d_0a_1x1",
    "branch_1.1": "Branch_1/Conv3d_0b_3x3",
    "branch_2.0": "Branch_2/Conv3d_0a_1x1",
    "branch_2.1": "Branch_2/Conv3d_0b_3x3",
    "branch_3.1": "Branch_3/Conv3d_0b_1x1",
}
TF_EXCEPTION = {("mixed_5b", "branch_2.1"): "Branch_2/Conv3d_0a_3x3"}  # so it is in the file
CLASSIFIER = "conv3d_0c_1x1"
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one family of checkpoints names things.

    Attributes:
        name: The family.
        has_scale: Whether its batch norms have a scale; it is 1 where they have none.
        time_first: Whether kernels lie as (T, H, W, in, out) instead of (out, in, T, H, W).
        keys: Our name of a tensor, as video_features names it, to the file's.
    """

    name: str
    has_scale: bool
    time_first: bool
    keys: Mapping[str, str]


def units() -> Iterator[tuple[str, str]]:
    """(block, branch) of all 57 convolutions with a batch norm; branch is "" outside of blocks."""
    yield from ((block, "") for block in SINGLE)
    yield from ((block, branch) for block in MIXED for branch in BRANCHES)


def schemes() -> tuple[Scheme, ...]:
    """The families, TensorFlow's with either net's prefix."""
    return (
        Scheme("video_features", True, False, {key: key for key in _canonical()}),
        Scheme("piergiaj", True, False, _piergiaj()),
        Scheme("TensorFlow, RGB", False, True, _tensorflow("RGB")),
        Scheme("TensorFlow, flow", False, True, _tensorflow("Flow")),
    )


def recognise(names: set[str]) -> Scheme:
    """The family that most of a checkpoint's names belong to."""
    return max(schemes(), key=lambda scheme: len(names & set(scheme.keys.values())))


def to_canonical(state: Mapping[str, Tensor], scheme: Scheme) -> dict[str, Tensor]:
    """A state dict under video_features' names, as far as the file has them.

    Counters of batches, which some files have and none needs, are left out.

    Args:
        state: The file's tensors.
        scheme: Its family.
    """
    found = {}
    for ours, theirs in scheme.keys.items():
        if theirs in state:
            tensor = state[theirs]
            if scheme.time_first and tensor.ndim == 5 and ours.endswith("conv3d.weight"):
                tensor = tensor.permute(4, 3, 0, 1, 2)
            elif scheme.time_first:
                tensor = tensor.flatten()  # Sonnet keeps statistics as (1, 1, 1, 1, C)
            found[ours] = tensor.contiguous().float()
        elif not scheme.has_scale and ours.endswith("batch3d.weight"):
            bias = scheme.keys[ours.removesuffix("weight") + "bias"]
            if bias in state:
                found[ours] = torch.ones(state[bias].numel())
    return found


def canonical_shapes(inputs: int) -> dict[str, tuple[int, ...]]:
    """Name to shape of everything that a checkpoint must hold.

    Args:
        inputs: Channels of the input: 3 for RGB, 2 for flow.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    widths = {"conv3d_1a_7x7": (inputs, 64, 7), "conv3d_2b_1x1": (64, 64, 1)}
    widths["conv3d_2c_3x3"] = (64, 192, 3)
    for block, branch in units():
        taken, given, kernel = _branch_widths(block, branch) if branch else widths[block]
        unit = _unit(block, branch)
        shapes[f"{unit}.conv3d.weight"] = (given, taken, kernel, kernel, kernel)
        shapes.update({f"{unit}.batch3d.{part}": (given,) for part in NORM_PARTS})
    shapes[f"{CLASSIFIER}.conv3d.weight"] = (400, 1024, 1, 1, 1)
    shapes[f"{CLASSIFIER}.conv3d.bias"] = (400,)
    return shapes


def fold(canonical: Mapping[str, Tensor], *, bn_eps: float) -> dict[str, Tensor]:
    """Weights of `extractors.vision.i3d_net.I3DNet`: batch norms folded, 1x1x1 convolutions joined.

    w' = w * gamma / sqrt(var + eps),  b' = beta - mean * gamma / sqrt(var + eps), in float64.

    Args:
        canonical: State dict with the shapes of `canonical_shapes`.
        bn_eps: Batch norm's epsilon: `BN_EPS_ORIGINAL` or `BN_EPS_VIDEO_FEATURES`.
    """
    folded: dict[str, Tensor] = {}

    def put(name: str, *parts: tuple[Tensor, Tensor]) -> None:
        folded[f"layers.{name}.weight"] = torch.cat([weight for weight, _ in parts])
        folded[f"layers.{name}.bias"] = torch.cat([bias for _, bias in parts])

    for block in SINGLE:
        put(block, _folded(canonical, block, bn_eps))
    for block in MIXED:
        by_branch = {name: _folded(canonical, f"{block}.{name}", bn_eps) for name in BRANCHES}
        put(
            f"{block}.entry",
            *(by_branch[name] for name in ("branch_0", "branch_1.0", "branch_2.0")),
        )
        put(f"{block}.branch_1", by_branch["branch_1.1"])
        put(f"{block}.branch_2", by_branch["branch_2.1"])
        put(f"{block}.branch_3", by_branch["branch_3.1"])
    folded["classifier.weight"] = canonical[f"{CLASSIFIER}.conv3d.weight"].flatten(1)
    folded["classifier.bias"] = canonical[f"{CLASSIFIER}.conv3d.bias"]
    return folded


def _folded(canonical: Mapping[str, Tensor], unit: str, eps: float) -> tuple[Tensor, Tensor]:
    gamma, beta, mean, var = (canonical[f"{unit}.batch3d.{part}"].double() for part in NORM_PARTS)
    scale = gamma / (var + eps).sqrt()
    weight = canonical[f"{unit}.conv3d.weight"].double() * scale[:, None, None, None, None]
    return weight.float(), (beta - mean * scale).float()


def _branch_widths(block: str, branch: str) -> tuple[int, int, int]:
    """Channels in, channels out, kernel length."""
    taken, plain, reduced_1, out_1, reduced_2, out_2, pooled = MIXED[block]
    return {
        "branch_0": (taken, plain, 1),
        "branch_1.0": (taken, reduced_1, 1),
        "branch_1.1": (reduced_1, out_1, 3),
        "branch_2.0": (taken, reduced_2, 1),
        "branch_2.1": (reduced_2, out_2, 3),
        "branch_3.1": (taken, pooled, 1),
    }[branch]


def _unit(block: str, branch: str) -> str:
    return f"{block}.{branch}" if branch else block


def _canonical() -> Iterator[str]:
    for block, branch in units():
        yield f"{_unit(block, branch)}.conv3d.weight"
        yield from (f"{_unit(block, branch)}.batch3d.{part}" for part in NORM_PARTS)
    yield from (f"{CLASSIFIER}.conv3d.{part}" for part in ("weight", "bias"))


def _piergiaj() -> dict[str, str]:
    keys = {}
    for block, branch in units():
        unit = ".".join(filter(None, (block.capitalize(), PIERGIAJ_BRANCHES.get(branch))))
        ours = _unit(block, branch)
        keys[f"{ours}.conv3d.weight"] = f"{unit}.conv3d.weight"
        keys.update({f"{ours}.batch3d.{part}": f"{unit}.bn.{part}" for part in NORM_PARTS})
    keys.update({f"{CLASSIFIER}.conv3d.{p}": f"logits.conv3d.{p}" for p in ("weight", "bias")})
    return keys


def _tensorflow(stream: str) -> dict[str, str]:
    """Keys of DeepMind's net; a batch norm without a scale has none for it."""
    root = f"{stream}/inception_i3d"
    names = {"weight": "gamma", "bias": "beta"}
    names |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
    keys = {}
    for block, branch in units():
        place = TF_EXCEPTION.get((block, branch), TF_BRANCHES.get(branch))
        unit = "/".join(filter(None, (root, block.capitalize(), place)))
        ours = _unit(block, branch)
        keys[f"{ours}.conv3d.weight"] = f"{unit}/conv_3d/w"
        for part, theirs in names.items():
            keys[f"{ours}.batch3d.{part}"] = f"{unit}/batch_norm/{theirs}"
    for part, theirs in (("weight", "w"), ("bias", "b")):
        keys[f"{CLASSIFIER}.conv3d.{part}"] = f"{root}/Logits/Conv3d_0c_1x1/conv_3d/{theirs}"
    return keys
