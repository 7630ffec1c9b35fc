"""Training samples that know the classes of a video and nothing of when they happen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from extractors.storage.store import FeatureStore
from workflows.annotations import VideoLabels
from workflows.matching import list_some
from workflows.training.batch import Sample
from workflows.training.dataset import SplitDataset


class WeakDataset(SplitDataset):
    """The videos of one split with video-level labels.

    Segments are dropped on entry, so nothing behind this class can read one. A sample has no
    segments, and as labels each class of its video once.

    Args:
        store: The features.
        videos: The labelled videos, by id.
        classes: Class names in order.
        modalities: As for `SplitDataset`.
        cache_bytes: As for `SplitDataset`.
    """

    def __init__(
        self,
        store: FeatureStore,
        videos: Mapping[str, VideoLabels],
        classes: Sequence[str],
        *,
        modalities: str = "both",
        cache_bytes: int = 0,
    ) -> None:
        blind = {
            id: replace(video, events=(), only_classes=video.classes)
            for id, video in videos.items()
        }
        super().__init__(store, blind, classes, modalities=modalities, cache_bytes=cache_bytes)

    def _labels(self, id: str) -> Tensor:
        numbers = [self._number[name] for name in self.videos[id].classes]
        return torch.tensor(numbers, dtype=torch.long)

    @cached_property
    def one_sided(self) -> list[str]:
        """Videos without a step at which picture and sound are both there.

        What happens in them is never both seen and heard, so nothing is learned from them.
        """
        if self._modalities != "both":
            return list(self.ids)
        return [id for id in self.ids if not self._has_both(id)]

    def _has_both(self, id: str) -> bool:
        features = self._store.read(self._stored[id])  # masks alone are touched
        return bool((features["vision_mask"] & features["audio_mask"]).any())

    def describe_changed(self) -> list[str]:
        """What is not learned from, one sentence each."""
        if lost := self.one_sided:
            return [
                f"{len(lost)} of {len(self.ids)} videos have no step with both picture and sound: "
                f"nothing is learned from {list_some(lost)}"
            ]
        return []

    def crop(
        self,
        sample: Sample,
        *,
        max_steps: int,
        share: tuple[float, float],
        keep: float,
        generator: random.Random,
    ) -> Sample:
        """A random piece that keeps every label: where the events are is not known.

        A piece of a video longer than ``max_steps`` may miss an event whose label it keeps.
        """
        steps = sample.steps
        low, high = (max(1, round(bound * steps)) for bound in share)
        length = min(max_steps, generator.randint(low, high))
        start = generator.randint(0, steps - length)
        return sample.streams_at(slice(start, start + length))
