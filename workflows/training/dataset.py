"""Features and labels of a split as training samples, in steps of the grid.

Shapes: B videos, T steps, N events, Cv and Ca feature widths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.features import Features
from extractors.shapes import row_bytes
from extractors.spec import MODALITIES
from extractors.storage.finite import first_bad_step
from extractors.storage.store import FeatureStore
from extractors.windows import WindowGrid
from model.assignment import matches
from model.doubt import Doubt
from model.points import make_points
from pipeline.core.errors import StoreError
from pipeline.core.events import Event
from workflows.annotations import DURATION_SLACK_S, BadRows, VideoLabels, refuse_rows
from workflows.matching import list_some, match_ids
from workflows.training.batch import Sample

CROP_TRIES = 200  # UnAV: draws of a crop until one keeps an event


class SplitDataset:
    """The videos of one split that the store holds.

    Args:
        store: The features.
        videos: The annotated videos, by id.
        classes: Class names in order.
        modalities: ``both``, or the one to keep; the other is masked as if it were missing.
        bad_rows: Of events that start after the extracted video: ``error``, or ``drop``.
        cache_bytes: Samples are kept in memory where all of them together take no more.
        event_targets: What the score of an event is to training; see `model.doubt.Doubt`.

    Attributes:
        videos: Those of which there are features, by id.
        ids: Their ids, sorted.
        missing: Annotated videos that the store does not hold.
        dropped: Number of events that were dropped.
        clipped: Number of events that end after the extracted video by more than rounding
            explains. Training takes an event to end with its video; scores take it as it is.

    Raises:
        StoreError: The store holds none of the videos.
        ConfigError: An id fits several videos of the store; an event starts after its video.
    """

    def __init__(
        self,
        store: FeatureStore,
        videos: Mapping[str, VideoLabels],
        classes: Sequence[str],
        *,
        modalities: str = "both",
        bad_rows: BadRows = "error",
        cache_bytes: int = 0,
        event_targets: str = "hard",
    ) -> None:
        self._store = store
        self._event_targets = event_targets
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
        summaries = {id: self._store.summary(self._stored[id]) for id in self.ids}
        self._steps = {id: summary.steps for id, summary in summaries.items()}
        self._ends = {id: summary.duration for id, summary in summaries.items()}
        self.dropped = self._check_ends(bad_rows)
        self.clipped = sum(
            event.end > self._ends[id] + DURATION_SLACK_S
            for id in self.ids
            for event in self.videos[id].events
        )
        self._sound: set[str] = set()  # videos whose features were found finite
        size = sum(self._steps.values()) * row_bytes(store.spec)
        self._cache: dict[str, Sample] | None = {} if size <= cache_bytes else None

    def _check_ends(self, bad_rows: BadRows) -> int:
        """Refuse or drop events that no step can stand for; a later end alone is clipped."""
        wrong = []
        for id in self.ids:
            labels, end = self.videos[id], self._ends[id]
            late = [event for event in labels.events if event.start >= end]
            wrong += [
                f"video {id!r}: {event.label!r} starts at {event.start:g} s, but the extracted "
                f"video ends at {end:g} s"
                for event in late
            ]
            if late:
                kept = tuple(event for event in labels.events if event.start < end)
                self.videos[id] = replace(labels, events=kept)
        if wrong and bad_rows == "error":
            raise refuse_rows(
                self._store.path,
                wrong,
                hint="check that labels and videos belong together, or set data.bad_rows=drop",
            )
        return len(wrong)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def grid(self) -> WindowGrid:
        """Where the steps lie."""
        return self._store.spec.grid

    @property
    def stored_ids(self) -> list[str]:
        """Names of the videos in the store."""
        return [self._stored[id] for id in self.ids]

    def describe_missing(self) -> str:
        """One sentence about annotated videos without features; empty where there are none."""
        if not self.missing:
            return ""
        count, total = len(self.missing), len(self.missing) + len(self.ids)
        return f"{count} of {total} annotated videos have no features: {list_some(self.missing)}"

    def describe_changed(self) -> list[str]:
        """What became of events that do not fit to what was extracted of their video."""
        said = []
        if self.dropped:
            said.append(f"{self.dropped} events start after the end of their video: left out")
        if self.clipped:
            said.append(f"{self.clipped} events end after what was extracted of their video")
        return said

    def crops(self, max_steps: int) -> list[str]:
        """Ids as one epoch shows them: a video n times as long as ``max_steps`` comes n times."""
        return [id for id in self.ids for _ in range(max(1, self._steps[id] // max_steps))]

    def unreachable(self, levels: int) -> int:
        """Number of events for which no point of a pyramid answers: too short between points.

        Counted on whole videos; see `model.assignment.matches`.
        """
        lost = 0
        for id in self.ids:
            points = make_points([-(-self._steps[id] // 2**level) for level in range(levels)])
            match = matches(points, self._segments(id, self.videos[id].events))
            lost += int((~match.any(0)).sum())
        return lost

    def features(self, id: str) -> Features:
        """Features of one video, memory-mapped.

        Raises:
            StoreError: A value is NaN or infinite: one such value spoils a whole training.
        """
        features = self._store.read(self._stored[id])
        if id not in self._sound:
            for name in MODALITIES:
                if (step := first_bad_step(features, name)) is not None:
                    raise StoreError(
                        f"video {id!r} in {self._store.path}: {name} is not finite in step {step}",
                        hint="make its features again; pipeline data check LABELS --features STORE "
                        "names all such videos",
                    )
            self._sound.add(id)
        return features

    def sample(self, id: str) -> Sample:
        """One whole video."""
        if self._cache is not None and id in self._cache:
            return self._cache[id]
        sample = Sample(
            id,
            *feature_tensors(self.features(id), modalities=self._modalities),
            segments=self._segments(id, self.videos[id].events),
            labels=self._labels(id),
            doubt=self._doubt(id),
        )
        if self._cache is not None:
            self._cache[id] = sample
        return sample

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
        """A random piece of a sample as training shows it; see `random_crop`."""
        return random_crop(
            sample,
            max_steps=max_steps,
            share=share,
            keep=keep,
            margin=margin,
            generator=generator,
        )

    def _labels(self, id: str) -> Tensor:
        """(N,) class numbers of a video's events."""
        return self._kinds_of(self.videos[id].events)

    def _kinds_of(self, events: Sequence[Event]) -> Tensor:
        return torch.tensor([self._number[event.label] for event in events], dtype=torch.long)

    def _segments(self, id: str, events: Sequence[Event]) -> Tensor:
        """(N, 2) events of a video in steps, clipped to what was extracted of it."""
        last = self._ends[id]
        ends = np.array([(event.start, min(event.end, last)) for event in events])
        return torch.from_numpy(self.grid.to_grid(ends.reshape(-1, 2))).float()

    def _doubt(self, id: str) -> Doubt | None:
        video = self.videos[id]
        if self._event_targets == "hard" and not video.unsure:
            return None
        confidence = torch.tensor([event.score for event in video.events])
        stretches, kinds = self._segments(id, video.unsure), self._kinds_of(video.unsure)
        return Doubt.of(confidence, stretches, kinds, targets=self._event_targets)


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
    margin: float = 0.0,
    generator: random.Random,
) -> Sample:
    """A random piece of a sample, as UnAV cuts it.

    A sample of at most ``max_steps`` keeps a random ``share`` of itself; a longer one is cut to
    ``max_steps``. Places are drawn until one keeps an event; where `CROP_TRIES` draws find none (a
    short event in hours of film), the piece is laid around a random event. Events are clipped to
    the piece; one of which less than ``keep`` remains is dropped, unless it is so long that no
    piece could keep that much and it fills at least half of this one.

    Args:
        sample: A whole video; one without events is cut anywhere.
        max_steps: Longest piece.
        share: Shortest and longest share of a video that fits.
        keep: Share of an event that must remain.
        margin: Steps beyond the piece that an event may still reach, to either side. ActionFormer
            and UniAV take half a window: what the first and the last one cover. UnAV takes none.
        generator: Draws, in this order: the length, then one start a trial.

    Returns:
        The piece; its events may be none, with shapes (0, 2) and (0,).
    """
    steps = sample.steps
    length = max_steps
    if steps <= max_steps:
        low, high = (max(1, round(bound * steps)) for bound in share)
        length = generator.randint(low, high)
        if length == steps:
            return sample
    for _ in range(CROP_TRIES):
        start = generator.randint(0, steps - length)
        inside, kept = _remains(sample.segments, start, length, keep, margin)
        if len(kept) == 0 or kept.any():
            break
    else:
        event = sample.segments[generator.randrange(len(sample.segments))]
        middle = float(event.mean()) + (generator.random() - 0.5) * length / 2
        start = int(min(max(middle - length / 2, 0), steps - length))
        inside, kept = _remains(sample.segments, start, length, keep, margin)
    return replace(
        sample.streams_at(slice(start, start + length)),
        segments=inside[kept] - start,
        labels=sample.labels[kept],
        doubt=sample.doubt and sample.doubt.cut(start, length, kept),
    )


def _remains(
    segments: Tensor, start: int, length: int, keep: float, margin: float
) -> tuple[Tensor, Tensor]:
    """What a piece leaves of (N, 2) events, and which of them (N,) it keeps."""
    inside = segments.clamp(start - margin, start + length + margin)
    rest = inside[:, 1] - inside[:, 0]
    whole = (segments[:, 1] - segments[:, 0]).clamp(min=1e-6)
    too_long = whole * keep > length
    enough = (rest > 0) & (rest / whole >= keep)  # with keep=0, too, what is outside is not kept
    return inside, enough | (too_long & (rest >= length / 2))
