"""Faster arithmetic for training: bfloat16 where it does no harm, and compiled networks.

Weights, their mean, optimiser and losses stay float32 whatever is chosen here: only the forward
pass of the network runs under autocast, and what it says is turned into float32 before any loss
looks at it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.errors import EnvironmentFault

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Outputs = TypeVar("Outputs", bound=DataclassInstance)

PRECISIONS = ("fp32", "bf16")
COMPILERS = ("g++", "clang++")  # what torch.compile looks for when CXX is not set
REDUCED = (torch.bfloat16, torch.float16)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network of this precision runs; ``fp32`` changes nothing.

    Args:
        precision: ``fp32`` or ``bf16``.
        device: Of the network.

    Raises:
        ValueError: The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: use one of {PRECISIONS}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_float32(outputs: Outputs) -> Outputs:
    """What a network says, with every tensor of reduced precision widened to float32.

    Args:
        outputs: A dataclass of tensors, of mappings to tensors, and of anything else, which is
            left alone.
    """
    wide = {item.name: _widen(getattr(outputs, item.name)) for item in fields(outputs)}
    return replace(outputs, **wide)


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in REDUCED else value
    if isinstance(value, Mapping):
        return {name: _widen(entry) for name, entry in value.items()}
    return value


def compiled(network: nn.Module, *, backend: str = "inductor") -> Callable[..., Any]:
    """The network as one compiled function, for inputs of one shape; it keeps its own names.

    The network itself stays as it is, so that its weights have the names that checkpoints use.
    Random numbers are drawn as without compilation, so that both train on the same drop paths.

    Args:
        network: With its weights where they are to stay.
        backend: Of torch; only ``inductor`` makes anything faster.

    Raises:
        EnvironmentFault: There is no C++ compiler, without which ``inductor`` cannot work.
    """
    if backend != "inductor":
        traced: Callable[..., Any] = torch.compile(network, dynamic=False, backend=backend)
        return traced
    wanted = (os.environ.get("CXX", ""), *COMPILERS)
    if not any(shutil.which(name) for name in wanted if name):
        raise EnvironmentFault(
            "train.compile=true needs a C++ compiler (g++ or clang++), and none is on the PATH",
            hint="install one, or set train.compile=false",
        )
    function: Callable[..., Any] = torch.compile(
        network, dynamic=False, options={"fallback_random": True}
    )
    return function
