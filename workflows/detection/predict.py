"""A trained checkpoint as a detector: features or raw files in, events in seconds out.

Shapes: T steps, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from extractors.device import select_device
from extractors.features import Features, Rows, Summary
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import Backbone, BackboneSpec
from extractors.stream import FeatureStream
from extractors.windows import WindowGrid
from model.activation import Recipe as ActivationRecipe
from model.build import Network
from model.checkpoint import Card, load_network
from model.clasp import CLASP
from model.decoding import DecodingSettings, Detected
from model.loco import LoCo
from model.sequence import SequenceDetector
from pipeline.core.errors import CheckpointError
from pipeline.core.events import Curves, Detections, Event, sort_events
from workflows.detection.piecewise import PLAIN_CURVES, ActivationTrack, block_of, stored_blocks
from workflows.detection.stillness import Stillness
from workflows.labels import known_labels
from workflows.weak.predict import LocalisationSettings, WeakPredictor

MIN_SCORE = 0.1  # what people are shown of a model whose card names no threshold


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

        Stored features are read piece by piece, so a video of any length stays on disk.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        self.card.check_features(features.digest)
        scan = self.scan()
        scan.add_stored(features)
        return scan.events(features.grid, features.summary.duration)

    def detect(self, features: Features) -> tuple[list[Event], Curves]:
        """Events of one video, best first, and the activation of the classes that matter.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        self.card.check_features(features.digest)
        scan = self.scan(curves=True)
        scan.add_stored(features)
        events = scan.events(features.grid, features.summary.duration)
        return events, scan.curves(events, features.grid)

    def scan(self, *, curves: bool = False) -> Scan:
        """A fresh look at one video whose features come in blocks.

        Args:
            curves: Whether to keep the activation, too.
        """
        return Scan(self._model, self.card, settings=self._settings, curves=curves)


class Scan:
    """One video on its way through a model: rows in as they come, then events and curves out.

    Memory grows only with what is found, and by 2 K bytes a step with the curves.

    Args:
        model: In eval mode.
        card: Its card.
        settings: Of decoding.
        curves: Whether to keep the activation.
    """

    def __init__(
        self, model: LoCo, card: Card, *, settings: DecodingSettings, curves: bool
    ) -> None:
        self._card = card
        self._modalities = str(card.data.get("modalities", "both"))
        self._track = ActivationTrack(len(card.classes)) if curves else None
        self._detector = SequenceDetector(model, settings=settings, watch=self._track)

    def add(self, rows: Rows) -> None:
        """Take the next consecutive steps: embeddings and masks of both modalities."""
        self._detector.add(*block_of(rows, modalities=self._modalities))

    def add_stored(self, features: Features) -> None:
        """Take all of a stored video."""
        for block in stored_blocks(features, modalities=self._modalities):
            self._detector.add(*block)

    def events(self, grid: WindowGrid, duration: float) -> list[Event]:
        """Events, best first, once all rows have been taken.

        Args:
            grid: Where the steps lie.
            duration: Seconds; events end there at the latest.
        """
        return events_of(self._detector.finish(), self._card.classes, grid, duration)

    def curves(self, events: Sequence[Event], grid: WindowGrid) -> Curves:
        """Activation of the classes with events and of a few strong ones without.

        Raises:
            ValueError: It was not kept.
        """
        if self._track is None:
            raise ValueError("this scan keeps no curves: ask for them when it starts")
        return self._track.curves(events, self._card.classes, grid)


class TrainedDetector:
    """Detector on raw files with a trained checkpoint; see `workflows.detection.run.Detector`.

    The backbone is loaded with the first raw file; features from a store need none.

    Args:
        path: The ``.safetensors`` file; its card lies beside it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; None for all.
        min_score: Events below it are left out; None for the threshold that was best on
            validation.
        reader: Video reader.
        weights_dir: Folder in which the backbone's weights are looked for first.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.

    Attributes:
        name: As it appears in results.
        method: Name of its network in `model.build.METHODS`.
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
        weights_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
    ) -> None:
        model, card = load_network(path)
        chosen = select_device(device)
        self.name = f"{type(model).__name__} ({path.name})"
        self.method = card.method
        self.labels = known_labels(labels, card.classes)
        self.digest = card.digest
        usual = card.metrics.get("threshold") or MIN_SCORE
        self._min_score = usual if min_score is None else min_score
        self._reader: ReaderChoice = reader
        self._device = device
        self._weights_dir = weights_dir
        self._offline = offline
        self._spec = _trained_spec(path, card, weights_dir, offline=offline)
        self._backbone: Backbone | None = None
        self._predict = predictor_of(model.to(chosen), card)

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file, by start.

        Embeddings go from the stream into the model piece by piece and are dropped, so memory
        hardly grows with the length of the file.

        Raises:
            MediaError: The file cannot be read.
        """
        if self._backbone is None:
            self._backbone = load_backbone(
                self._spec.name,
                device=self._device,
                weights_dir=self._weights_dir,
                offline=self._offline,
            )
        stream = FeatureStream(probe(path), self._backbone, reader=self._reader)
        scan, watch = self._predict.scan(curves=True), Stillness()
        for rows in stream:
            scan.add(rows)
            watch.add(rows)
        events = scan.events(self._spec.grid, stream.summary.duration)
        curves = scan.curves(events, self._spec.grid)
        return self._result(events, curves, stream.summary, watch, video=os.fspath(path))

    def detect_features(self, features: Features) -> tuple[list[Event], Curves]:
        """Events of one video, best first, and activation curves of the classes that matter.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        return self._wanted(*self._predict.detect(features))

    def detections(self, features: Features, *, video: str) -> Detections:
        """The result for features that are there already.

        Args:
            features: Of one video.
            video: Its name in the result.
        """
        watch = Stillness()
        watch.add_stored(features)
        return self._result(*self._predict.detect(features), features.summary, watch, video=video)

    def _wanted(self, events: Sequence[Event], curves: Curves) -> tuple[list[Event], Curves]:
        """What was asked for: classes to report, events that are sure enough, their curves."""
        wanted = set(self.labels)
        kept = [e for e in events if e.label in wanted and e.score >= self._min_score]
        shown = {event.label for event in kept}
        columns = [
            column
            for column, label in enumerate(curves.labels)
            if label in shown
            or label not in self._predict.card.classes  # agreement: of no class
            or (label in wanted and column < len(shown) + PLAIN_CURVES)
        ]
        names = tuple(curves.labels[column] for column in columns)
        return kept, Curves(curves.times, names, curves.values[:, columns])

    def _result(
        self,
        events: Sequence[Event],
        curves: Curves,
        summary: Summary,
        watch: Stillness,
        *,
        video: str,
    ) -> Detections:
        notes = list(summary.notes)
        if self.method == "clasp":  # learned from what is both seen and heard, and from that alone
            notes += watch.notes()
            events = () if watch.still else events
        events, curves = self._wanted(events, curves)
        if summary.status == "partial":
            shares = summary.coverage.items()
            listed = ", ".join(f"{name} {share:.0%}" for name, share in shares)
            notes.append(f"partial result: decoded of what the file promises: {listed}")
        return Detections(
            video=video,
            duration=summary.duration,
            events=sort_events(events),
            detector=self.name,
            notes=tuple(notes),
            curves=curves,
        )


def predictor_of(model: Network, card: Card) -> Predictor | WeakPredictor:
    """What turns features into events, with the settings that a model was trained to be used with.

    Args:
        model: In eval mode, on its device.
        card: Its card.
    """
    decoding = DecodingSettings(**card.data.get("decoding", {}))
    if isinstance(model, CLASP):
        recipe = ActivationRecipe(**card.data.get("localise", {}), min_score=decoding.min_score)
        settings = LocalisationSettings(
            recipe=recipe, max_total=decoding.max_total, pieces=decoding
        )
        return WeakPredictor(model, card, settings=settings)
    return Predictor(model, card, settings=decoding)


def _trained_spec(
    path: Path, card: Card, weights_dir: str | os.PathLike[str] | None, *, offline: bool | None
) -> BackboneSpec:
    """This version's description of the backbone that a checkpoint needs.

    Raises:
        UsageError: This version has no such backbone.
        CheckpointError: It has another version of it.
    """
    name = str(card.backbone.get("name"))
    spec = backbone_spec(name, weights_dir=weights_dir, offline=offline)
    if spec.digest != card.digest:
        raise CheckpointError(
            f"checkpoint {path} was trained on another version of backbone "
            f"{spec.name!r} ({card.digest}, now {spec.digest})",
            hint="extract the features again and train again",
        )
    return spec
