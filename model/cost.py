"""What the network costs: parameters and operations of one forward pass, part by part.

Operations are floating-point operations, 2 for a multiply-add. Counted are all matrix products and
convolutions as they are executed, attention included: windowed attention with every key of its
blocks, also those that the band masks. Not counted is what has no product of matrices: norms,
activations, softmax, pooling, masks, the interpolation of chosen windows, and the decoding of
points to events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.build import build_loco
from model.loco import LoCo

# Part of the report -> attribute of `LoCo`.
PARTS = {
    "embedding": "embed",
    "unimodal blocks": "unimodal",
    "pyramid": "pyramid",
    "decoder": "decoder",
    "heads": "head",
    "LCC": "correspondence",
}
TRAINING_ONLY = frozenset({"LCC"})
NOT_COUNTED = (
    "norms, activations, softmax, pooling, masks, interpolation of chosen windows, Soft-NMS"
)


@dataclass(frozen=True, slots=True)
class PartCost:
    """One part of the network.

    Attributes:
        name: A key of `PARTS`.
        parameters: Number of learned values; frozen ones count.
        flops: Operations of one forward pass.
        training_only: Detection works without it.
    """

    name: str
    parameters: int
    flops: int
    training_only: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a network on one video.

    Attributes:
        steps: T of the video.
        parts: The parts that the network has, in the order of the forward pass.
    """

    steps: int
    parts: tuple[PartCost, ...]

    @property
    def parameters(self) -> int:
        """Parameters in training."""
        return sum(part.parameters for part in self.parts)

    @property
    def inference_parameters(self) -> int:
        """Parameters that detection needs."""
        return sum(part.parameters for part in self.parts if not part.training_only)

    @property
    def flops(self) -> int:
        """Operations of one forward pass."""
        return sum(part.flops for part in self.parts)


@dataclass(frozen=True, slots=True)
class PublicCost:
    """What a public system costs at T = 256 with ONE-PEACE features (1536 + 1536).

    Attributes:
        name: The system.
        parameters: Computed from its public code.
        flops: Likewise, 2 for a multiply-add.
    """

    name: str
    parameters: float
    flops: float


PUBLIC_STEPS, PUBLIC_DIM = 256, 1536
PUBLIC = (
    PublicCost("UnAV", 140.9e6, 128.6e9),
    PublicCost("UniAV", 130.75e6, 22.8e9),
)


def measure_cost(architecture: Mapping[str, Any], *, steps: int = PUBLIC_STEPS) -> Cost:
    """Count parameters and operations without allocating the network.

    Args:
        architecture: Arguments of `LoCo`.
        steps: T of one video, picture and sound complete.

    Raises:
        ConfigError: The arguments do not make a network.
        ValueError: There are no steps.
    """
    if steps < 1:
        raise ValueError(f"a forward pass needs at least 1 step, not {steps}")
    # The position table has no parameters; one that covers the video spares its interpolation,
    # which asks for the video's length: a value that tensors without storage do not have.
    table = max(steps, int(architecture.get("max_seq_len", PUBLIC_STEPS)))
    counter = FlopCounterMode(display=False)
    # Fake tensors have shapes but no storage. In its plain form attention is two products of
    # matrices, which the counter knows everywhere.
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model = build_loco(**{**architecture, "max_seq_len": table}).eval()
        streams = [
            torch.empty(1, int(architecture[f"{name}_dim"]), steps) for name in ("vision", "audio")
        ]
        mask = torch.ones(1, steps, dtype=torch.bool)
        with counter:
            model(*streams, mask, mask)
    parts = []
    for name, attribute in PARTS.items():
        module = getattr(model, attribute)
        if module is not None:
            parameters = sum(value.numel() for value in module.parameters())
            flops = _flops_of(counter, attribute)
            parts.append(PartCost(name, parameters, flops, name in TRAINING_ONLY))
    cost = Cost(steps, tuple(parts))
    assert cost.parameters == sum(value.numel() for value in model.parameters())
    assert cost.flops == counter.get_total_flops()
    return cost


def _flops_of(counter: FlopCounterMode, attribute: str) -> int:
    """Operations below one attribute of the network: those of its outermost modules."""
    root = f"{LoCo.__name__}.{attribute}"
    counts = {
        name: sum(operations.values())
        for name, operations in counter.get_flop_counts().items()
        if name == root or name.startswith(root + ".")
    }
    outermost = [
        name for name in counts if not any(name.startswith(other + ".") for other in counts)
    ]
    return sum(counts[name] for name in outermost)
