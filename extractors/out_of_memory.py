"""What to make of a net that found no room: is it that, and what can be given back at once."""

from __future__ import annotations

import gc

import torch

from pipeline.core.errors import OutOfMemoryFault

# Torch's allocators of devices; cuBLAS and cuDNN; torch's allocators of the CPU (Linux, Windows);
# the C++ library.
WORDS = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine had no room for a tensor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in WORDS)


def release(device: torch.device) -> None:
    """Give back what nobody uses any more.

    An error holds what its frames held; they refer to each other, so that they go by this only.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def no_room(device: torch.device, error: BaseException) -> OutOfMemoryFault:
    """The error of a net that found no room a second time.

    Args:
        device: Where it ran.
        error: What was raised.
    """
    place = "the machine" if device.type == "cpu" else f"the device {str(device)!r}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OutOfMemoryFault(
        f"{place} has too little memory for the net, also on a second try: {reason}",
        hint="run fewer processes or other programs beside it, or choose another --device",
    )
