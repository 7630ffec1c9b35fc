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
        name_others: Whether `describe_changed` says what else the store holds: where no other split
            explains it, these videos have no row.
    """

    def __init__(
        self,
        store: FeatureStore,
        videos: Mapping[str, VideoLabels],
        classes: Sequence[str],
        *,
        modalities: str = "both",
        cache_bytes: int = 0,
        name_others: bool = False,
    ) -> None:
        blind = {
            id: replace(video, events=(), only_classes=video.classes)
            for id, video in videos.items()
        }
        super().__init__(store, blind, classes, modalities=modalities, cache_bytes=cache_bytes)
        self._name_others = name_others

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
        """What is not learned from, and what is not learned, one sentence each."""
        said = []
        if lost := self.one_sided:
            said.append(
                f"{len(lost)} of {len(self.ids)} videos have no step with both picture and sound: "
                f"nothing is learned from {list_some(lost)}"
            )
        if others := self._others():
            said.append(
                f"{len(others)} videos of {self._store.path} have no labels, which is not the same "
                f"as a row without any: nothing is learned from {list_some(others)}"
            )
        heard = set(self.ids) - set(lost)
        shown = {label for id in heard for label in self.videos[id].classes}
        if unseen := [name for name in self._number if name not in shown]:
            said.append(
                f"{len(unseen)} of {len(self._number)} classes are in none of these videos and "
                f"will not be found: {list_some(unseen)}"
            )
        return said

    def _others(self) -> list[str]:
        """Videos of the store without labels, where these are to be named."""
        if not self._name_others:
            return []
        return sorted(set(self._store.ids()) - set(self._stored.values()))

    def crop(
        self,
        sample: Sample,
        *,
        max_steps: int,
        share: tuple[float, float],
        keep: float,
        margin: float = 0.0,
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
