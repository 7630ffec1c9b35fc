"""A trained CLASP as a detector on features: activation, then events in seconds.

Shapes: T steps, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extractors.features import Features
from model.activation import Recipe, segments_from_activation, smooth
from model.checkpoint import Card
from model.clasp import CLASP
from model.decoding import DecodingSettings
from model.localisation import VideoActivation, activate_sequence
from pipeline.core.events import Curves, Event
from workflows.agreement import once
from workflows.dataset import feature_tensors
from workflows.localise import segment_events

PLAIN_CURVES = 3  # strongest classes without an event that still get a curve
AGREEMENT = "agreement of sound and picture"


@dataclass(frozen=True, slots=True)
class LocalisationSettings:
    """From activation to events.

    The thresholds are those that a simulation on UnAV-100's annotations favours: several of them
    on the raw probabilities of each class. Scaling the activation of a video to [0, 1] first, as
    several public codes do, breaks events that fill the video.

    Attributes:
        recipe: Smoothing, thresholds, contrast, suppression.
        max_total: Events kept of a video.
        pieces: How a long video is cut.
    """

    recipe: Recipe = field(default_factory=lambda: Recipe(outer=0.5, video_weight=0.2))
    max_total: int = 100
    pieces: DecodingSettings = field(default_factory=DecodingSettings)


class WeakPredictor:
    """A model on its device, with everything that turns features into events.

    Args:
        model: In eval mode, on the device where it shall run.
        card: Its card.
        settings: From activation to events.
    """

    def __init__(
        self, model: CLASP, card: Card, *, settings: LocalisationSettings | None = None
    ) -> None:
        self.card = card
        self._model = model
        self._settings = settings or LocalisationSettings()

    def __call__(self, features: Features) -> list[Event]:
        """Candidates of one video for ranking, best first.

        One event may be among them at several lengths.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        return self._events(self.activate(features), features)

    def detect(self, features: Features) -> tuple[list[Event], Curves]:
        """Events of one video as people want them, best first, each once; and its curves.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        said = self.activate(features)
        events = once(self._events(said, features))
        return events, self._curves(said, events, features)

    def activate(self, features: Features) -> VideoActivation:
        """Activation of every step.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        self.card.check_features(features.digest)
        modalities = str(self.card.data.get("modalities", "both"))
        inputs = feature_tensors(features, modalities=modalities)
        return activate_sequence(self._model, *inputs, settings=self._settings.pieces)

    def _events(self, said: VideoActivation, features: Features) -> list[Event]:
        recipe = self._settings.recipe
        activation = smooth(said.activation.numpy(), said.valid.numpy(), recipe.smoothing)
        segments = segments_from_activation(activation, recipe, video_scores=said.video.numpy())
        events = segment_events(
            segments,
            self.card.classes,
            features.grid,
            steps=features.steps,
            duration=features.summary.duration,
            min_score=0.0,
        )
        return list(events)[: self._settings.max_total]

    def _curves(self, said: VideoActivation, events: list[Event], features: Features) -> Curves:
        """Agreement, classes with events by their best, and a few strong ones without."""
        labels = list(dict.fromkeys(event.label for event in events))
        strongest = np.argsort(-said.video.numpy(), kind="stable")
        others = [self.card.classes[index] for index in strongest]
        labels += [label for label in others if label not in set(labels)][:PLAIN_CURVES]
        columns = [self.card.classes.index(label) for label in labels]
        values: NDArray[np.float32] = np.concatenate(
            [said.activation.numpy()[:, columns], said.agreement.numpy()[:, None]], axis=1
        )
        return Curves(features.grid.centres(features.steps), (*labels, AGREEMENT), values)
