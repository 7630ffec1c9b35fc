"""Features and labels of a split as training samples, in steps of the grid.

Shapes: B videos, T steps, N events, Cv and Ca feature widths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.features import Features
from extractors.store import FeatureStore
from extractors.windows import WindowGrid
from pipeline.core.errors import StoreError
from workflows.annotations import VideoLabels
from workflows.matching import list_some, match_ids

CROP_TRIES = 200  # UnAV: draws of a crop until one keeps an event


@dataclass(frozen=True, slots=True)
class Sample:
    """One video, or a crop of one.

    Attributes:
        id: Annotation id.
        vision: (Cv, T).
        audio: (Ca, T).
        vision_mask: (T,).
        audio_mask: (T,).
        segments: (N, 2) start and end in steps; may be fractional, and negative before the
            centre of the first window.
        labels: (N,) class numbers.
    """

    id: str
    vision: Tensor
    audio: Tensor
    vision_mask: Tensor
    audio_mask: Tensor
    segments: Tensor
    labels: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return len(self.vision_mask)


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
    """

    vision: Tensor
    audio: Tensor
    vision_mask: Tensor
    audio_mask: Tensor
    segments: list[Tensor]
    labels: list[Tensor]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            self.vision.to(device),
            self.audio.to(device),
            self.vision_mask.to(device),
            self.audio_mask.to(device),
            [entry.to(device) for entry in self.segments],
            [entry.to(device) for entry in self.labels],
        )


class SplitDataset:
    """The videos of one split that the store holds.

    Args:
        store: The features.
        videos: The annotated videos, by id.
        classes: Class names in order.
        modalities: ``both``, or the one to keep; the other is masked as if it were missing.

    Attributes:
        videos: Those of which there are features, by id.
        missing: Annotated videos that the store does not hold.

    Raises:
        StoreError: The store holds none of the videos.
        ConfigError: An id fits several videos of the store.
    """

    def __init__(
        self,
        store: FeatureStore,
        videos: Mapping[str, VideoLabels],
        classes: Sequence[str],
        *,
        modalities: str = "both",
    ) -> None:
        self._store = store
        self._modalities = modalities
        self._number = {name: number for number, name in enumerate(classes)}
        self._stored, self.missing = match_ids(videos, store.ids())
        self.videos = {id: videos[id] for id in self._stored}
        self.ids = sorted(self.videos)
        if not self.ids:
            raise StoreError(
                f"the feature store {store.path} holds none of the {len(videos)} annotated videos",
                hint="run the extract stage; ids are the videos' relative paths",
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def grid(self) -> WindowGrid:
        """Where the steps lie."""
        return self._store.spec.grid

    def describe_missing(self) -> str:
        """One sentence about annotated videos without features; empty where there are none."""
        if not self.missing:
            return ""
        total = len(self.missing) + len(self.ids)
        names = list_some(self.missing)
        return f"{len(self.missing)} of {total} annotated videos have no features: {names}"

    def features(self, id: str) -> Features:
        """Features of one video, memory-mapped."""
        return self._store.read(self._stored[id])

    def sample(self, id: str) -> Sample:
        """One whole video."""
        events = self.videos[id].events
        ends = np.array([(event.start, event.end) for event in events]).reshape(-1, 2)
        return Sample(
            id,
            *feature_tensors(self.features(id), modalities=self._modalities),
            segments=torch.from_numpy(self.grid.to_grid(ends)).float(),
            labels=torch.tensor([self._number[event.label] for event in events], dtype=torch.long),
        )


def feature_tensors(
    features: Features, *, modalities: str = "both"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vision (Cv, T), audio (Ca, T) and their masks (T,), copied out of the store."""

    def tensor(name: str) -> Tensor:
        array: NDArray[Any] = np.array(features[name])
        return torch.from_numpy(array)

    vision, audio = tensor("vision").T.contiguous(), tensor("audio").T.contiguous()
    vision_mask, audio_mask = tensor("vision_mask"), tensor("audio_mask")
    if modalities == "vision":
        audio_mask = torch.zeros_like(audio_mask)
    elif modalities == "audio":
        vision_mask = torch.zeros_like(vision_mask)
    return vision, audio, vision_mask, audio_mask


def random_crop(
    sample: Sample,
    *,
    max_steps: int,
    share: tuple[float, float],
    keep: float,
    generator: random.Random,
) -> Sample:
    """A random piece of a sample, as UnAV cuts it.

    A sample of at most ``max_steps`` keeps a random ``share`` of itself; a longer one
    is cut to ``max_steps``. Places are drawn until one keeps an event, the last draw counts. Events
    are clipped to the piece; one of which less than ``keep`` remains is dropped. Whatever is drawn,
    the result has all its shapes, perhaps without events.
    """
    steps = sample.steps
    length = max_steps
    if steps <= max_steps:
        length = generator.randint(max(1, round(share[0] * steps)), max(1, round(share[1] * steps)))
        if length == steps:
            return sample
    span = (sample.segments[:, 1] - sample.segments[:, 0]).clamp(min=1e-6)
    for _ in range(CROP_TRIES):
        start = generator.randint(0, steps - length)
        inside = sample.segments.clamp(start, start + length)
        kept = (inside[:, 1] - inside[:, 0]) / span >= keep
        if len(kept) == 0 or kept.any():
            break
    piece = slice(start, start + length)
    return Sample(
        sample.id,
        sample.vision[:, piece],
        sample.audio[:, piece],
        sample.vision_mask[piece],
        sample.audio_mask[piece],
        inside[kept] - start,
        sample.labels[kept],
    )


def collate(samples: Sequence[Sample], *, steps: int) -> Batch:
    """Pad samples to a common length.

    Args:
        samples: At least one.
        steps: T of the batch, at least that of the longest sample.
    """

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
    )
