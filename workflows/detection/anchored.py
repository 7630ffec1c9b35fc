"""CLASP where nothing has been trained: anchors on the scores of any training-free detector.

See `model.anchored` for what of CLASP can hold without learned weights. Events then come from the
activation by the same recipe as a trained CLASP's.

Shapes: T steps, n consecutive steps, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from extractors.features import Features, Rows
from extractors.media.video import ReaderChoice
from extractors.spec import Backbone
from extractors.windows import WindowGrid
from model.activation import STANDARD, STANDARD_KEPT, Recipe, smooth
from model.agreement import FloatArray
from model.anchored import AnchorSettings, Stream, anchored_activation
from model.decoding import DecodingSettings, piece_hop
from model.localisation import VideoActivation, join_pieces
from model.pieces import Pieces
from model.pooling import top_mean
from pipeline.core.errors import UsageError
from pipeline.core.events import AGREEMENT, Curves, Detections, Event
from workflows.detection.agreement import ANY_TEXT, AgreementScorer, AgreementSettings
from workflows.detection.joint_classes import JointTable
from workflows.detection.joint_scan import scan_video
from workflows.detection.localise import candidate_events, most_kept, once
from workflows.detection.open_vocabulary import OpenVocabularyDetector
from workflows.detection.piecewise import BLOCK_STEPS, PLAIN_CURVES
from workflows.labels import known_labels

Probabilities = Callable[[Rows], tuple[FloatArray, FloatArray]]
"""(n, K) probabilities of each class by sound, and by picture, from some rows."""


@dataclass(frozen=True, slots=True)
class AnchoredSettings:
    """Anchors, and from activation to events.

    Attributes:
        anchors: Which steps, and how far their word reaches.
        recipe: That of a trained CLASP (`workflows.weak.predict.LocalisationSettings`).
        max_total: Candidates kept of a video, likewise.
        min_score: Weaker events are not reported; where F is largest on real sounds and pictures
            put together (`pipeline bench agreement FOLDER --method clasp`).
        pieces: How a long video is cut.
    """

    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    recipe: Recipe = STANDARD
    max_total: int = STANDARD_KEPT
    min_score: float = 0.35
    pieces: DecodingSettings = field(default_factory=DecodingSettings)


class AnchoredScorer:
    """Collects a video's probabilities and embeddings piece by piece, then finds the events.

    Embeddings are kept for one piece, so memory grows by 2 K bytes a step.

    Args:
        labels: Names of the K classes.
        probabilities: What the nets say of each class.
        settings: Anchors and recipe.
    """

    def __init__(
        self,
        labels: Sequence[str],
        probabilities: Probabilities,
        settings: AnchoredSettings | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.settings = settings or AnchoredSettings()
        self._probabilities = probabilities
        pieces = self.settings.pieces
        self._buffer = Pieces(chunk=pieces.chunk, hop=piece_hop(pieces), look=self._look)
        self._starts: list[int] = []
        self._said: list[VideoActivation] = []

    def add(self, rows: Rows) -> None:
        """Take the next consecutive steps: embeddings, masks and what the probabilities need."""
        audio, vision = self._probabilities(rows)
        arrays = (audio, vision, rows["audio"], rows["vision"])
        valid = np.asarray(rows["audio_mask"] & rows["vision_mask"])
        streams = [torch.from_numpy(np.array(array, np.float32)).T for array in arrays]
        self._buffer.add(*streams, torch.from_numpy(valid))

    def finish(self, grid: WindowGrid, duration: float) -> tuple[list[Event], Curves]:
        """Events, best first, each once; activation of the classes that matter, and the agreement.

        Args:
            grid: Where the steps lie.
            duration: Seconds; events end there at the latest.

        Raises:
            ValueError: There was no step.
        """
        self._buffer.finish()
        said = join_pieces(self._said, self._starts, chunk=self.settings.pieces.chunk)
        recipe, valid = self.settings.recipe, said.valid.numpy()
        found = candidate_events(
            smooth(said.activation.numpy(), valid, recipe.smoothing, by=recipe.filter),
            recipe,
            self.labels,
            grid,
            duration=duration,
            video_scores=said.video.numpy(),
            min_score=self.settings.min_score,
            most=most_kept(len(valid), self.settings.max_total, self.settings.pieces),
        )
        events = once(found)
        return events, self._curves(said, events, grid)

    def _look(self, start: int, inputs: tuple[Tensor, ...]) -> None:
        audio, vision, heard, seen = (x[None] for x in inputs[:4])
        valid = inputs[4][None]
        activation, score = anchored_activation(
            Stream(audio, heard), Stream(vision, seen), valid, self.settings.anchors
        )
        video = top_mean(activation, valid)
        self._starts.append(start)
        self._said.append(
            VideoActivation(activation[0].T.half(), video[0], score[0].half(), valid[0].clone())
        )

    def _curves(self, said: VideoActivation, events: Sequence[Event], grid: WindowGrid) -> Curves:
        labels = list(dict.fromkeys(event.label for event in events))
        strongest = [self.labels[index] for index in (-said.video).argsort(stable=True).tolist()]
        labels += [label for label in strongest if label not in set(labels)][:PLAIN_CURVES]
        columns = [self.labels.index(label) for label in labels]
        values = torch.cat([said.activation[:, columns], said.agreement[:, None]], 1)
        return Curves(
            grid.centres(len(values)), (*labels, AGREEMENT), values.numpy().astype(np.float32)
        )


class AnchoredDetector:
    """Detector on raw files with anchors on scores that need no training.

    See `workflows.detection.run.Detector`.

    Args:
        backbone: Loaded.
        classes: Names of the K classes.
        probabilities: What the backbone's nets say of each.
        settings: Anchors, recipe and smallest score.
        labels: Classes to report, all known; None for all.
        reader: Video reader.

    Attributes:
        name: As it appears in results.
        labels: Classes that it reports.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        probabilities: Probabilities,
        *,
        settings: AnchoredSettings | None = None,
        labels: Sequence[str] | None = None,
        reader: ReaderChoice = "auto",
    ) -> None:
        self.name = f"CLASP without training ({backbone.spec.name})"
        self.labels = tuple(classes if labels is None else labels)
        self.settings = settings or AnchoredSettings()
        self._classes = tuple(classes)
        self._probabilities = probabilities
        self._backbone = backbone
        self._reader: ReaderChoice = reader

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file, by start, in seconds on the file's own clock.

        Raises:
            MediaError: The file cannot be read.
        """
        found = scan_video(
            path, self._backbone, self._scorer(), detector=self.name, reader=self._reader
        )
        wanted = set(self.labels)
        events = tuple(event for event in found.events if event.label in wanted)
        return replace(found, events=events, curves=found.curves and self._shown(found.curves))

    def detect_features(self, features: Features) -> tuple[list[Event], Curves]:
        """Events, best first, and curves of features that are there already.

        Raises:
            UsageError: They are of another backbone.
        """
        if features.digest != self._backbone.spec.digest:
            raise UsageError(
                f"features {features.id} are of backbone {features.digest}, the detector's nets "
                f"of {self._backbone.spec.digest}",
                hint=f"extract them with --backbone {self._backbone.spec.name}",
            )
        scorer, wanted = self._scorer(), set(self.labels)
        for first in range(0, features.steps, BLOCK_STEPS):
            part = slice(first, first + BLOCK_STEPS)
            scorer.add({name: array[part] for name, array in features.arrays.items()})
        events, curves = scorer.finish(features.grid, features.summary.duration)
        return [event for event in events if event.label in wanted], self._shown(curves)

    def _scorer(self) -> AnchoredScorer:
        return AnchoredScorer(self._classes, self._probabilities, self.settings)

    def _shown(self, curves: Curves) -> Curves:
        wanted = {*self.labels, AGREEMENT}
        columns = [index for index, label in enumerate(curves.labels) if label in wanted]
        names = tuple(curves.labels[index] for index in columns)
        return Curves(curves.times, names, curves.values[:, columns])


def anchors_on_agreement(
    backbone: Backbone,
    table: JointTable,
    *,
    settings: AnchoredSettings | None = None,
    calibration: AgreementSettings | None = None,
    labels: Sequence[str] | None = None,
    reader: ReaderChoice = "auto",
) -> AnchoredDetector:
    """Anchors on the scores of the agreement detector.

    Args:
        backbone: With nets that name classes.
        table: Joint classes on those nets' class lists.
        settings: Anchors, recipe and smallest score.
        calibration: Of the nets' scores.
        labels: Classes to report; None for all of the table.
        reader: Video reader.

    Raises:
        UsageError: A label is unknown.
    """
    wanted = known_labels(labels, table.labels, table.unknown, elsewhere=ANY_TEXT)
    nets = AgreementScorer(table, calibration or AgreementSettings())
    return AnchoredDetector(
        backbone, table.labels, nets.probabilities, settings=settings, labels=wanted, reader=reader
    )


def anchors_on_vocabulary(
    detector: OpenVocabularyDetector,
    *,
    settings: AnchoredSettings | None = None,
    reader: ReaderChoice = "auto",
) -> AnchoredDetector:
    """Anchors on the scores of open vocabulary, for the labels of that detector.

    Args:
        detector: Whose encoders and labels are used.
        settings: Anchors, recipe and smallest score.
        reader: Video reader.
    """
    vocabulary = detector.vocabulary

    def probabilities(rows: Rows) -> tuple[FloatArray, FloatArray]:
        return vocabulary.probabilities(rows, "audio"), vocabulary.probabilities(rows, "vision")

    return AnchoredDetector(
        detector.backbone, detector.labels, probabilities, settings=settings, reader=reader
    )
