"""The way to a device and back: nobody waits for more than the own answer.

A CUDA device works off what it is given in order. Whoever copies an answer in the plain way waits
for everything that the device was given up to then, the next batch included, and the device is left
without work. So an answer's way back is queued right behind its batch, with an event behind it, and
the event is what is waited for, asleep: decoders want the core. On the way there, rows are copied
beside the batch that computes, on a stream of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]
Outputs = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device was asked for.

    Attributes:
        outputs: On the CPU, or on a device that is not CUDA.
        there: Has passed when they are there; None where reading them waits.
    """

    outputs: tuple[Tensor, ...]
    there: torch.cuda.Event | None = None

    def wait(self) -> Outputs:
        """The outputs, float32, once they are there."""
        if self.there is not None:
            self.there.synchronize()
        return tuple(output.cpu().numpy() for output in self.outputs)


class DeviceQueue:
    """One net's way to a device that is not the CPU.

    Args:
        device: Where.
    """

    def __init__(self, device: torch.device) -> None:
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        # With its number: without one it would be another GPU in a thread with another current one.
        self._device = device if self._copies is None else self._copies.device

    def pin(self, inputs: Inputs) -> Inputs:
        """Inputs in memory that the device can copy from by itself."""
        return inputs if self._copies is None else _each(inputs, Tensor.pin_memory)

    def send(self, inputs: Inputs) -> Inputs:
        """Inputs on the device, for what it is given next; what is pinned is not waited for."""
        if self._copies is None:
            return _each(inputs, lambda value: value.to(self._device))
        with torch.cuda.stream(self._copies):
            there = _each(inputs, lambda value: value.to(self._device, non_blocking=True))
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copies)
        for value in [there] if isinstance(there, Tensor) else there.values():
            value.record_stream(computing)  # else the next copy could take its memory too early
        return there

    def answer(self, outputs: tuple[Tensor, ...]) -> Answer:
        """Start the way back of what the device was just asked for."""
        whole = tuple(output.float() for output in outputs)
        if self._copies is None:
            return Answer(whole)
        here = tuple(_pinned_like(value) for value in whole)
        for target, value in zip(here, whole, strict=True):
            target.copy_(value, non_blocking=True)
        there = torch.cuda.Event(blocking=True)
        there.record(torch.cuda.current_stream(self._device))
        return Answer(here, there)


def _pinned_like(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same change made to all that a net is given."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {name: change(value) for name, value in inputs.items()}
