"""Detection of whatever a user can name: a CLIP-like and a CLAP-like encoder, and no training.

Each step's picture and sound are compared with the labels, as texts, in the space of their own
encoder. `model.zero_shot` makes probabilities of that; where both modalities name the same label
is an event, by the mathematics of `model.agreement` and the recipe of `model.activation`.

Shapes: T steps, D width of an encoder's space, C labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from extractors.features import Features, Rows
from extractors.media.video import ReaderChoice
from extractors.spec import MODALITIES, Backbone, Modality
from extractors.text import TextEncoder
from extractors.windows import WindowGrid
from model.activation import STANDARD, STANDARD_KEPT, Recipe
from model.zero_shot import TextSpace, text_probabilities
from pipeline.core.errors import UsageError
from pipeline.core.events import Curves, Detections, Event
from workflows.detection.joint_activation import JointActivation
from workflows.detection.joint_scan import scan_video
from workflows.detection.prompts import (
    BACKGROUND_PICTURES,
    BACKGROUND_SOUNDS,
    PICTURE_SENTENCES,
    SOUND_SENTENCES,
    free_labels,
    name_embeddings,
    says_the_same,
)
from workflows.unav100 import class_names

CHUNK_STEPS = 1024  # steps of stored features that are in memory at once

TextEncoders = Callable[[Modality], TextEncoder]
"""Loads the text side of the encoder of a modality."""


@dataclass(frozen=True, slots=True)
class OpenVocabularySettings:
    """Numbers of the detector, by reason: no pretrained pair was at hand to fit them.

    Attributes:
        prior: Probability of a label that was asked for, at a step, before sound or picture say
            anything.
        unasked_prior: The same of a class of the default list. A class of UnAV-100 is in 1.6 % of
            its videos, and there 57 % of the time.
        competitors: Names of other events that stand against every label. They do not depend on
            what else is asked for, so that one more label never moves the events of another.
        recipe: From activation to events: that of CLASP, with the video's score of a label.
        max_total: Candidates kept of a video; of a long one, for each piece.
        min_score: Weaker events are not reported.
    """

    prior: float = 0.05
    unasked_prior: float = 0.01
    competitors: tuple[str, ...] = field(default_factory=class_names)
    recipe: Recipe = STANDARD
    max_total: int = STANDARD_KEPT
    min_score: float = 0.3


class Vocabulary:
    """Labels and what competes with them, in the spaces of both encoders.

    Args:
        labels: As `workflows.detection.prompts.free_labels` returns them.
        text: Text side of each encoder; each is let go before the next is loaded.
        competitors: See `OpenVocabularySettings`.
        prior: Probability of a label before anything is heard or seen.
    """

    def __init__(
        self,
        labels: Sequence[str],
        text: TextEncoders,
        *,
        competitors: Sequence[str],
        prior: float,
    ) -> None:
        self.labels = tuple(labels)
        self._prior = prior
        self._spaces = {
            modality: _space(self.labels, modality, text(modality), competitors)
            for modality in MODALITIES
        }

    def probabilities(self, rows: Rows, modality: Modality) -> np.ndarray:
        """(T, C) probability of each label by one modality; see `model.zero_shot`."""
        return text_probabilities(rows[modality], self._spaces[modality], prior=self._prior)

    def check(self, modality: Modality, dim: int) -> None:
        """Refuse an encoder whose space is not that of its texts.

        Raises:
            UsageError: The widths differ.
        """
        width = self._spaces[modality].labels.shape[1]
        if width != dim:
            raise UsageError(
                f"the {modality} embeddings have {dim} values, their texts {width}",
                hint="open vocabulary needs encoders that share a space with text, as CLIP's and "
                "CLAP's do",
            )


class OpenVocabularyScorer:
    """Collects agreement on labels from rows of embeddings, then finds the events.

    Args:
        vocabulary: The labels.
        settings: Recipe and smallest score.
    """

    def __init__(self, vocabulary: Vocabulary, settings: OpenVocabularySettings) -> None:
        self._vocabulary = vocabulary
        self._joint = JointActivation(
            vocabulary.labels,
            recipe=settings.recipe,
            min_score=settings.min_score,
            max_total=settings.max_total,
        )

    def add(self, rows: Rows) -> None:
        """Take the next consecutive steps: embeddings and masks of both modalities."""
        self._joint.add(
            self._vocabulary.probabilities(rows, "audio"),
            self._vocabulary.probabilities(rows, "vision"),
            rows["audio_mask"] & rows["vision_mask"],
        )

    def finish(self, grid: WindowGrid, duration: float) -> tuple[list[Event], Curves]:
        """Events, best first, and activation curves; see `JointActivation.finish`."""
        return self._joint.finish(grid, duration)


class OpenVocabularyDetector:
    """Detector on raw files for labels in free text; see `workflows.detection.run.Detector`.

    Args:
        backbone: Loaded, with encoders that share spaces with texts.
        text: Text side of each encoder.
        labels: What to look for; None for the hundred classes of UnAV-100.
        settings: Prior, competitors, recipe and smallest score.
        reader: Video reader.

    Attributes:
        name: As it appears in results.
        labels: Classes that it reports.
        backbone: The encoders.
        vocabulary: These labels in the spaces of both encoders.

    Raises:
        UsageError: A label is empty or too long; an encoder shares no space with its texts.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextEncoders,
        *,
        labels: Sequence[str] | None = None,
        settings: OpenVocabularySettings | None = None,
        reader: ReaderChoice = "auto",
    ) -> None:
        self.name = f"open vocabulary ({backbone.spec.name})"
        self.labels = class_names() if labels is None else free_labels(labels)
        self.settings = settings or OpenVocabularySettings()
        self.backbone = backbone
        self._reader = reader
        self.vocabulary = Vocabulary(
            self.labels,
            text,
            competitors=self.settings.competitors,
            prior=self.settings.unasked_prior if labels is None else self.settings.prior,
        )
        self.vocabulary.check("vision", backbone.spec.vision.dim)
        self.vocabulary.check("audio", backbone.spec.audio.dim)

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file, by start, in seconds on the file's own clock.

        Raises:
            MediaError: The file cannot be read.
        """
        scorer = OpenVocabularyScorer(self.vocabulary, self.settings)
        return scan_video(path, self.backbone, scorer, detector=self.name, reader=self._reader)

    def detect_features(self, features: Features) -> tuple[list[Event], Curves]:
        """Events, best first, and curves of features that are there already.

        Raises:
            UsageError: The features are of another backbone.
        """
        if features.digest != self.backbone.spec.digest:
            raise UsageError(
                f"features {features.id} are of backbone {features.digest}, the labels of "
                f"{self.backbone.spec.digest}",
                hint=f"extract them with --backbone {self.backbone.spec.name}",
            )
        scorer = OpenVocabularyScorer(self.vocabulary, self.settings)
        for first in range(0, features.steps, CHUNK_STEPS):
            part = slice(first, first + CHUNK_STEPS)
            scorer.add({name: array[part] for name, array in features.arrays.items()})
        return scorer.finish(features.grid, features.summary.duration)


def _space(
    labels: Sequence[str], modality: Modality, encoder: TextEncoder, competitors: Sequence[str]
) -> TextSpace:
    """The labels in one encoder's space; what says the same as a label does not compete with it."""
    pictures = modality == "vision"
    sentences = PICTURE_SENTENCES if pictures else SOUND_SENTENCES
    background = BACKGROUND_PICTURES if pictures else BACKGROUND_SOUNDS
    others = (*competitors, *background)
    competes = [[not says_the_same(label, other) for other in others] for label in labels]
    return TextSpace(
        name_embeddings(encoder, labels, sentences),
        name_embeddings(encoder, others, sentences),
        np.array(competes),
        encoder.logit_scale,
    )
