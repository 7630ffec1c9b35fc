"""Float32 that is float32, on every device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions in float32 keep its 24 bits on NVIDIA GPUs; also a decorator of functions.

    PyTorch computes them in TF32 there by default, with 11 bits, so that scores would depend on the
    device. Matrix products it computes in full anyway. Source: PyTorch, "Numerical accuracy".
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
