"""Choose where the encoders run."""

from __future__ import annotations

import os

import torch

from pipeline.core.cores import core_limit
from pipeline.core.errors import EnvironmentFault, UsageError


def select_device(name: str = "auto") -> torch.device:
    """The torch device that a name stands for.

    Where the container of this process allows fewer cores than torch sees, torch is told so,
    unless ``OMP_NUM_THREADS`` says what the user wants.

    Args:
        name: ``auto`` (a CUDA device when there is one, else the CPU), or any name that torch
            knows, such as ``cpu`` or ``cuda:1``.

    Raises:
        UsageError: No such device name.
        EnvironmentFault: The device is not on this machine.
    """
    _keep_to_limit()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"unknown device {name!r}", hint="use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cpu":
        return device
    try:
        torch.empty(0, device=device)
    # Torch asserts that it was built for CUDA, and has no implementation for some other devices.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise EnvironmentFault(
            f"device {name!r} cannot be used on this machine: {reason}", hint="use --device cpu"
        ) from error
    return device


def _keep_to_limit() -> None:
    """No more threads of torch than cores: those that share a layer wait for each other."""
    limit = core_limit()
    if limit is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(limit, torch.get_num_threads()))
