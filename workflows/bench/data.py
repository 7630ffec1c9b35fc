"""Batches of the size of UnAV-100 without its data: features of noise with planted events.

Shapes: B videos, T steps, N events, K classes, Cv and Ca feature widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workflows.training.batch import Batch, Sample, collate

# UnAV-100's training split, counted in its annotation file; a test counts again where it is there.
VIDEOS = 6489
EVENTS_PER_VIDEO = 3  # 18,123 events
CLASSES = 100
# Durations: at these shares of the videos, at most so many seconds.
DURATION_SHARES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 1.0)
DURATIONS_S = (10.0, 20.1, 27.1, 38.0, 44.0, 45.4, 49.0, 54.0, 60.0)

ONE_PEACE_DIM = 1536  # of each stream, in windows of 1 s every 0.25 s
WINDOW_S, STEP_S = 1.0, 0.25


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the videos that are made.

    Attributes:
        vision_dim: Cv.
        audio_dim: Ca.
        classes: K.
        events: N of each video.
    """

    vision_dim: int = ONE_PEACE_DIM
    audio_dim: int = ONE_PEACE_DIM
    classes: int = CLASSES
    events: int = EVENTS_PER_VIDEO


class PlantedVideos:
    """Makes videos in which each class has a direction in both feature spaces.

    Both streams point along it while an event lasts; everything else is noise.

    Args:
        sizes: Of the videos.
        seed: Decides directions and videos.
    """

    def __init__(self, sizes: Sizes, *, seed: int = 0) -> None:
        self.sizes = sizes
        self._generator = torch.Generator().manual_seed(seed)
        self._directions = [
            torch.randn(sizes.classes, width, generator=self._generator)
            for width in (sizes.vision_dim, sizes.audio_dim)
        ]

    def sample(self, steps: int, *, name: str = "") -> Sample:
        """One video of T steps."""
        segments, labels = self._events(steps)
        vision, audio = (
            self._stream(directions, steps, segments, labels) for directions in self._directions
        )
        there = torch.ones(steps, dtype=torch.bool)
        return Sample(name, vision, audio, there, there, segments, labels)

    def batch(self, lengths: Sequence[int], *, steps: int | None = None) -> Batch:
        """Videos of the given lengths, padded to ``steps`` or to the longest."""
        return collate([self.sample(length) for length in lengths], steps=steps)

    def _events(self, steps: int) -> tuple[Tensor, Tensor]:
        """Ends (N, 2) in steps and classes (N,): short events are more frequent than long ones."""
        count = self.sizes.events
        share = torch.rand(count, generator=self._generator) ** 2
        length = (share * steps).clamp(min=2.0)
        start = torch.rand(count, generator=self._generator) * (steps - length)
        labels = torch.randint(self.sizes.classes, (count,), generator=self._generator)
        return torch.stack([start, start + length], dim=1), labels

    def _stream(self, directions: Tensor, steps: int, segments: Tensor, labels: Tensor) -> Tensor:
        """(C, T) features."""
        place = torch.arange(steps)
        inside = (place >= segments[:, :1]) & (place <= segments[:, 1:])  # (N, T)
        noise = torch.randn(directions.shape[1], steps, generator=self._generator)
        return noise + directions[labels].T @ inside.float()


def lengths_like_unav100(count: int) -> list[int]:
    """Steps of so many videos whose durations are spread as UnAV-100's, in a fixed mixed order."""
    rank = (torch.randperm(count, generator=torch.Generator().manual_seed(0)) + 0.5) / count
    seconds = np.interp(rank.numpy(), DURATION_SHARES, DURATIONS_S)
    return [int((value - WINDOW_S) / STEP_S) + 1 for value in seconds]
