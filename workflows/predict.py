"""A trained checkpoint as a detector: features or raw files in, events in seconds out.

Shapes: T steps, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from extractors.device import select_device
from extractors.features import Features, concatenate_rows
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice
from extractors.registry import load_backbone
from extractors.spec import Backbone
from extractors.stream import FeatureStream
from extractors.windows import WindowGrid
from model.checkpoint import Card, load_checkpoint
from model.decoding import DecodingSettings, Detected, detect_sequence
from model.loco import LoCo
from pipeline.core.errors import CheckpointError
from pipeline.core.events import Detections, Event, sort_events
from workflows.dataset import feature_tensors
from workflows.detect import known_labels

MIN_SCORE = 0.1  # what people are shown; evaluation takes everything


def events_of(
    found: Detected, classes: Sequence[str], grid: WindowGrid, duration: float
) -> list[Event]:
    """Detections on the grid as events in seconds, clipped to the video; best first."""
    ends = grid.to_seconds(found.segments.double().cpu().numpy()).clip(0.0, duration)
    return [
        Event(float(start), float(end), classes[label], float(score))
        for (start, end), label, score in zip(
            ends, found.labels.tolist(), found.scores.tolist(), strict=True
        )
        if end > start
    ]


class Predictor:
    """A model on its device, with everything that turns features into events.

    Args:
        model: In eval mode, on ``device``.
        card: Its card.
        device: Where it runs.
        settings: Of decoding.
    """

    def __init__(
        self, model: LoCo, card: Card, *, device: torch.device, settings: DecodingSettings
    ) -> None:
        self.card = card
        self._model = model
        self._device = device
        self._settings = settings

    def __call__(self, features: Features) -> list[Event]:
        """Events of one video, best first.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        if features.digest != self.card.digest:
            raise CheckpointError(
                f"the model was trained on features of backbone {self.card.backbone.get('name')!r} "
                f"(digest {self.card.digest}), these have digest {features.digest}",
                hint="extract the features again with the model's backbone",
            )
        modalities = str(self.card.data.get("modalities", "both"))
        inputs = [
            tensor.to(self._device) for tensor in feature_tensors(features, modalities=modalities)
        ]
        found = detect_sequence(self._model, *inputs, settings=self._settings)
        return events_of(found, self.card.classes, features.grid, features.summary.duration)


class LocoDetector:
    """Detector on raw files with a trained checkpoint; see `workflows.detect.Detector`.

    Args:
        path: The ``.safetensors`` file; its card lies beside it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; None for all.
        min_score: Events below it are left out; None for 0.1.
        reader: Video reader.

    Raises:
        CheckpointError: The checkpoint cannot be read, or its backbone has changed since.
        UsageError: A label is unknown to the model.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        labels: Sequence[str] | None = None,
        min_score: float | None = None,
        reader: ReaderChoice = "auto",
    ) -> None:
        model, card = load_checkpoint(path)
        chosen = select_device(device)
        self.name = f"LoCo ({path.name})"
        self.labels = known_labels(labels, card.classes)
        self._min_score = MIN_SCORE if min_score is None else min_score
        self._reader = reader
        self._backbone = _load_trained_backbone(path, card, device=device)
        self._predict = Predictor(
            model.to(chosen),
            card,
            device=chosen,
            settings=DecodingSettings(**card.data.get("decoding", {})),
        )

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file, by start."""
        features = self._features(path)
        wanted = set(self.labels)
        events = [
            event
            for event in self._predict(features)
            if event.label in wanted and event.score >= self._min_score
        ]
        return Detections(
            video=os.fspath(path),
            duration=features.summary.duration,
            events=sort_events(events),
            detector=self.name,
            notes=features.summary.notes,
        )

    def _features(self, path: str | os.PathLike[str]) -> Features:
        """Embeddings and masks; class scores, which the model does not read, are dropped."""
        stream = FeatureStream(probe(path), self._backbone, reader=self._reader)
        names = ("vision", "audio", "vision_mask", "audio_mask")
        rows = concatenate_rows({name: chunk[name] for name in names} for chunk in stream)
        spec = self._backbone.spec
        return Features(Path(path).name, spec.grid, spec.digest, rows, stream.summary)


def _load_trained_backbone(path: Path, card: Card, *, device: str) -> Backbone:
    backbone = load_backbone(str(card.backbone.get("name")), device=device)
    if backbone.spec.digest != card.digest:
        raise CheckpointError(
            f"checkpoint {path} was trained on another version of backbone "
            f"{backbone.spec.name!r} ({card.digest}, now {backbone.spec.digest})",
            hint="extract the features again and train again",
        )
    return backbone
