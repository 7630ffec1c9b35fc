"""How many CPU cores a training uses: one where its layers are too small to be shared.

Torch shares an operation among the cores from some ten thousand values on. Waking the other cores
and waiting for them costs as long as the work on a small layer itself, some thousand times a step,
so that a small network learns faster on one core than on two (docs/benchmarks.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_LAYER = 1 << 18  # values of a batch between two layers; measured on two cores
CHOICE = "OMP_NUM_THREADS"


@contextmanager
def few_threads(values: int, device: torch.device) -> Iterator[None]:
    """One thread for layers below `SMALL_LAYER` values; whatever torch chose for others.

    Args:
        values: Of a batch between two layers: videos x steps x channels.
        device: Where the network runs; on an accelerator nothing is changed, nor where
            ``OMP_NUM_THREADS`` says what the user wants.
    """
    if device.type != "cpu" or values >= SMALL_LAYER or CHOICE in os.environ:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
