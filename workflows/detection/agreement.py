"""The training-free detector: an event is where sound and picture name the same class.

Scores of the two embedded nets are joined to classes by the table of
`workflows.detection.joint_classes`, calibrated, and handed to the mathematics of `model.agreement`.

Shapes: T steps, C joint classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.features import Features
from extractors.windows import WindowGrid
from model.activation import Recipe
from model.agreement import calibrate, log_odds
from pipeline.core.errors import UsageError
from pipeline.core.events import Curves, Event
from workflows.detection.joint_activation import JointActivation
from workflows.detection.joint_classes import JointTable, load_joint_table

ANY_TEXT = "--method open-vocabulary looks for any text"
CHUNK_STEPS = 4096  # steps whose scores are in memory at once: 17 minutes, some 12 MB

Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class AgreementSettings:
    """Numbers of the detector, chosen by reason or on real sounds and pictures put together.

    The picture net's calibration follows from its softmax: a net that knows nothing gives a group
    of n of K classes the share n / K, so that share is an even chance, with slope 1. A fit on real
    pictures comes near (slope 1.07, 0.7 n / K). The sound net's scores are independent sigmoids
    without such a zero: slope and midpoint are a Platt fit on real sounds. Prior and smallest
    score are where F is largest. `pipeline bench agreement FOLDER` prints all of this.

    Attributes:
        audio_slope: Platt slope of the sound scores.
        audio_midpoint: Sound score that is an even chance, before the prior.
        vision_slope: Slope of the picture scores.
        prior: Probability of a class before sound or picture say anything.
        recipe: From activation to events.
        min_score: Events below it are not reported.
    """

    audio_slope: float = 0.65
    audio_midpoint: float = 0.015
    vision_slope: float = 1.0
    prior: float = 0.2
    recipe: Recipe = field(default_factory=Recipe)
    min_score: float = 0.3


class AgreementScorer:
    """Collects activation from rows of scores in any number of chunks, then finds the events.

    The scores themselves are not kept.

    Args:
        table: The joint classes.
        settings: Calibration and recipe.
    """

    def __init__(self, table: JointTable, settings: AgreementSettings) -> None:
        self.table = table
        self.settings = settings
        prior = float(log_odds(settings.prior))
        audio_even = float(log_odds(settings.audio_midpoint))
        self._audio_midpoint = audio_even - prior / settings.audio_slope
        self._vision_midpoint = log_odds(table.vision_shares) - prior / settings.vision_slope
        self._joint = JointActivation(
            table.labels, recipe=settings.recipe, min_score=settings.min_score
        )

    def add(self, rows: Rows) -> None:
        """Take the next consecutive steps: both masks and both nets' class scores.

        Raises:
            UsageError: The rows hold no class scores.
        """
        audio, vision = self.probabilities(rows)
        self._joint.add(audio, vision, rows["audio_mask"] & rows["vision_mask"])

    def probabilities(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Calibrated (T, C) probabilities of each joint class, by sound and by picture.

        Raises:
            UsageError: The rows hold no class scores.
        """
        if "audio_scores" not in rows or "vision_scores" not in rows:
            raise UsageError(
                "these features hold no class scores, which a detector without training needs",
                hint="extract with --backbone lite, or give a trained model with --model",
            )
        audio = calibrate(
            self.table.audio_probabilities(rows["audio_scores"]),
            slope=self.settings.audio_slope,
            midpoint=self._audio_midpoint,
        )
        vision = calibrate(
            self.table.vision_probabilities(rows["vision_scores"]),
            slope=self.settings.vision_slope,
            midpoint=self._vision_midpoint,
        )
        return audio, vision

    def finish(self, grid: WindowGrid, duration: float) -> tuple[list[Event], Curves]:
        """Events, best first, and the activation curves of the classes that matter.

        Args:
            grid: Where the steps lie.
            duration: Seconds; events end there at the latest.
        """
        return self._joint.finish(grid, duration)


def detect_features(
    features: Features,
    *,
    table: JointTable | None = None,
    settings: AgreementSettings | None = None,
) -> tuple[list[Event], Curves]:
    """Events where sound and picture agree, from stored or fresh features.

    Works through the features in chunks, so a memory-mapped set of any length stays on disk.

    Args:
        features: Of a backbone whose nets name classes (``lite``).
        table: Joint classes; the committed table for the ``lite`` nets when omitted.
        settings: Calibration and recipe; the defaults when omitted.

    Returns:
        Events, best first, in seconds; and activation curves.

    Raises:
        UsageError: The features hold no class scores.
    """
    scorer = AgreementScorer(table or lite_table(), settings or AgreementSettings())
    for first in range(0, features.steps, CHUNK_STEPS):
        chunk = slice(first, first + CHUNK_STEPS)
        scorer.add({name: array[chunk] for name, array in features.arrays.items()})
    return scorer.finish(features.grid, features.summary.duration)


def lite_table() -> JointTable:
    """The committed table on the class lists of the embedded nets."""
    from extractors.audio.yamnet import audioset_classes
    from extractors.vision.efficientnet import imagenet_classes

    return load_joint_table(audioset_classes(), imagenet_classes())
