"""A trained checkpoint as a detector: features or raw files in, events in seconds out.

Shapes: T steps, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from extractors.device import select_device
from extractors.features import Features, concatenate_rows
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import Backbone, BackboneSpec
from extractors.stream import FeatureStream
from extractors.windows import WindowGrid
from model.checkpoint import Card, load_checkpoint
from model.decoding import DecodingSettings, Detected, detect_sequence
from model.loco import LoCo, Prediction
from pipeline.core.errors import CheckpointError
from pipeline.core.events import Curves, Detections, Event, sort_events
from workflows.dataset import feature_tensors
from workflows.labels import known_labels

MIN_SCORE = 0.1  # what people are shown of a model whose card names no threshold
PLAIN_CURVES = 3  # strongest classes without an event that still get a curve
ARRAYS = ("vision", "audio", "vision_mask", "audio_mask")  # what the model reads of the features


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
        model: In eval mode, on the device where it shall run.
        card: Its card.
        settings: Of decoding.
    """

    def __init__(self, model: LoCo, card: Card, *, settings: DecodingSettings) -> None:
        self.card = card
        self._model = model
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
        # The features stay where they are: each piece is moved to the model's device by itself.
        inputs = feature_tensors(features, modalities=modalities)
        found = detect_sequence(self._model, *inputs, settings=self._settings)
        return events_of(found, self.card.classes, features.grid, features.summary.duration)

    def detect(self, features: Features) -> tuple[list[Event], Curves]:
        """Events of one video, best first, and the activation of the classes that matter.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        record = _Activation(
            features.steps, len(self.card.classes), self._settings.chunk - self._settings.overlap
        )
        hook = self._model.register_forward_hook(record)
        try:
            events = self(features)
        finally:
            hook.remove()
        return events, record.curves(events, self.card.classes, features.grid)


class _Activation:
    """Watches a model at work and keeps, for each step, the best probability of any point over it.

    A point of level l stands for the 2^l steps from its own on; where the pieces of a long video
    overlap, the larger value counts.
    """

    def __init__(self, steps: int, classes: int, advance: int) -> None:
        self._values = np.zeros((steps, classes), np.float32)
        self._advance = advance
        self._start = 0

    def __call__(self, model: nn.Module, inputs: object, prediction: Prediction) -> None:
        probabilities = prediction.logits[0].sigmoid() * prediction.mask[0][:, None]
        length, first = prediction.lengths[0], 0
        piece = self._values[self._start : self._start + length]
        for level, count in enumerate(prediction.lengths):
            points = probabilities[first : first + count].repeat_interleave(2**level, 0)[:length]
            np.maximum(piece, points.float().cpu().numpy(), out=piece)
            first += count
        self._start += self._advance

    def curves(self, events: Sequence[Event], classes: Sequence[str], grid: WindowGrid) -> Curves:
        """Curves of the classes with events, by their best, and of a few strong ones without."""
        number = {name: index for index, name in enumerate(classes)}
        labels = list(dict.fromkeys(event.label for event in events))
        strongest = np.argsort(-self._values.max(axis=0, initial=0), kind="stable")
        others = [classes[index] for index in strongest if classes[index] not in set(labels)]
        labels += others[:PLAIN_CURVES]
        columns = [number[label] for label in labels]
        return Curves(grid.centres(len(self._values)), tuple(labels), self._values[:, columns])


class LocoDetector:
    """Detector on raw files with a trained checkpoint; see `workflows.detect.Detector`.

    The backbone is loaded with the first raw file; features from a store need none.

    Args:
        path: The ``.safetensors`` file; its card lies beside it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; None for all.
        min_score: Events below it are left out; None for the threshold that was best on
            validation.
        reader: Video reader.

    Attributes:
        name: As it appears in results.
        labels: Classes that it reports.
        digest: Of the backbone whose features it takes.

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
        self.digest = card.digest
        usual = card.metrics.get("threshold") or MIN_SCORE
        self._min_score = usual if min_score is None else min_score
        self._reader: ReaderChoice = reader
        self._device = device
        self._spec = _trained_spec(path, card)
        self._backbone: Backbone | None = None
        self._predict = Predictor(
            model.to(chosen),
            card,
            settings=DecodingSettings(**card.data.get("decoding", {})),
        )

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file, by start.

        Raises:
            MediaError: The file cannot be read.
        """
        return self.detections(self._features(path), video=os.fspath(path))

    def detect_features(self, features: Features) -> tuple[list[Event], Curves]:
        """Events of one video, best first, and activation curves of the classes that matter.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        events, curves = self._predict.detect(features)
        wanted = set(self.labels)
        kept = [e for e in events if e.label in wanted and e.score >= self._min_score]
        shown = {event.label for event in kept}
        columns = [
            column
            for column, label in enumerate(curves.labels)
            if label in shown or (label in wanted and column < len(shown) + PLAIN_CURVES)
        ]
        names = tuple(curves.labels[column] for column in columns)
        return kept, Curves(curves.times, names, curves.values[:, columns])

    def detections(self, features: Features, *, video: str) -> Detections:
        """The result for features that are there already.

        Args:
            features: Of one video.
            video: Its name in the result.
        """
        events, curves = self.detect_features(features)
        notes = list(features.summary.notes)
        if features.summary.status == "partial":
            shares = features.summary.coverage.items()
            listed = ", ".join(f"{name} {share:.0%}" for name, share in shares)
            notes.append(f"partial result: decoded of what the file promises: {listed}")
        return Detections(
            video=video,
            duration=features.summary.duration,
            events=sort_events(events),
            detector=self.name,
            notes=tuple(notes),
            curves=curves,
        )

    def _features(self, path: str | os.PathLike[str]) -> Features:
        """Embeddings and masks; class scores, which the model does not read, are dropped."""
        if self._backbone is None:
            self._backbone = load_backbone(self._spec.name, device=self._device)
        stream = FeatureStream(probe(path), self._backbone, reader=self._reader)
        rows = concatenate_rows({name: chunk[name] for name in ARRAYS} for chunk in stream)
        return Features(Path(path).name, self._spec.grid, self.digest, rows, stream.summary)


def _trained_spec(path: Path, card: Card) -> BackboneSpec:
    """This version's description of the backbone that a checkpoint needs.

    Raises:
        UsageError: This version has no such backbone.
        CheckpointError: It has another version of it.
    """
    spec = backbone_spec(str(card.backbone.get("name")))
    if spec.digest != card.digest:
        raise CheckpointError(
            f"checkpoint {path} was trained on another version of backbone "
            f"{spec.name!r} ({card.digest}, now {spec.digest})",
            hint="extract the features again and train again",
        )
    return spec
