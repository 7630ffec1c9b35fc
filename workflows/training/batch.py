"""One video, and several padded to one length, as a network is shown them.

Shapes: B videos, T steps, N events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.doubt import Doubt, batch_doubts


@dataclass(frozen=True, slots=True)
class Sample:
    """One video, or a crop of one.

    Attributes:
        id: Annotation id.
        vision: (Cv, T).
        audio: (Ca, T).
        vision_mask: (T,).
        audio_mask: (T,).
        segments: (N, 2) start and end in steps; negative before the first window's centre.
        labels: (N,) class numbers.
        doubt: How far segments and labels are believed; None for entirely.
    """

    id: str
    vision: Tensor
    audio: Tensor
    vision_mask: Tensor
    audio_mask: Tensor
    segments: Tensor
    labels: Tensor
    doubt: Doubt | None = None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.vision_mask)

    def streams_at(self, steps: slice) -> Sample:
        """Both streams at some steps only; segments and labels stay as they are."""
        return replace(
            self,
            vision=self.vision[:, steps],
            audio=self.audio[:, steps],
            vision_mask=self.vision_mask[steps],
            audio_mask=self.audio_mask[steps],
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples side by side, padded at the end; arguments of `model.loco.LoCo`.

    Attributes:
        vision: (B, Cv, T).
        audio: (B, Ca, T).
        vision_mask: (B, T).
        audio_mask: (B, T).
        segments: Of each sample, (N, 2).
        labels: Of each sample, (N,).
        doubts: Of each sample; None where all is believed.
    """

    vision: Tensor
    audio: Tensor
    vision_mask: Tensor
    audio_mask: Tensor
    segments: list[Tensor]
    labels: list[Tensor]
    doubts: list[Doubt] | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; a pinned one is copied while the caller goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pinned(self) -> Batch:
        """The batch in memory that a CUDA device reads by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.vision),
            change(self.audio),
            change(self.vision_mask),
            change(self.audio_mask),
            [change(entry) for entry in self.segments],
            [change(entry) for entry in self.labels],
            self.doubts and [entry.each(change) for entry in self.doubts],
        )


def collate(samples: Sequence[Sample], *, steps: int | None = None) -> Batch:
    """Pad samples at the end to a common length; padding never changes what a model says.

    Args:
        samples: At least one.
        steps: T of the batch; that of the longest sample when omitted.
    """
    steps = max(sample.steps for sample in samples) if steps is None else steps

    def pad(tensors: Sequence[Tensor]) -> Tensor:
        out = tensors[0].new_zeros((len(tensors), *tensors[0].shape[:-1], steps))
        for row, tensor in enumerate(tensors):
            out[row, ..., : tensor.shape[-1]] = tensor
        return out

    return Batch(
        pad([entry.vision for entry in samples]),
        pad([entry.audio for entry in samples]),
        pad([entry.vision_mask for entry in samples]),
        pad([entry.audio_mask for entry in samples]),
        [entry.segments for entry in samples],
        [entry.labels for entry in samples],
        batch_doubts([entry.doubt for entry in samples], [len(entry.labels) for entry in samples]),
    )
