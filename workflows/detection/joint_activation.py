"""From probabilities by sound and by picture to events: where both name the same class.

Shapes: T steps of a video, n consecutive steps of it, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extractors.windows import WindowGrid
from model.activation import Recipe, smooth
from model.agreement import FloatArray, agreement
from model.decoding import DecodingSettings
from model.localisation import video_scores
from pipeline.core.events import Curves, Event
from workflows.detection.localise import candidate_events, most_kept, once

SPARE_CURVES = 3  # strongest classes without an event that still get a curve
SPARE_CURVE_PEAK = 0.2


class JointActivation:
    """Collects the agreement of two modalities in any number of chunks, then finds the events.

    Memory grows by 2 C bytes a step (6 MB for two hours of a hundred classes); the probabilities
    themselves are not kept.

    Args:
        labels: Names of the C classes.
        recipe: From activation to events.
        min_score: Weaker events are not reported.
        max_total: Candidates kept of a video; of a long one, for each piece. None for all.
        pieces: Of a long video.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        recipe: Recipe,
        min_score: float,
        max_total: int | None = None,
        pieces: DecodingSettings | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self._recipe = recipe
        self._min_score = min_score
        self._max_total = max_total
        self._pieces = pieces or DecodingSettings()
        self._activation: list[NDArray[np.float16]] = []
        self._valid: list[NDArray[np.bool_]] = []

    def add(self, audio: FloatArray, vision: FloatArray, valid: NDArray[np.bool_]) -> None:
        """Take the next consecutive steps.

        Args:
            audio: (n, C) probability of each class by sound.
            vision: (n, C) the same by picture.
            valid: (n,) steps at which there are sound and picture.
        """
        self._activation.append((agreement(audio, vision) * valid[:, None]).astype(np.float16))
        self._valid.append(np.asarray(valid))

    def finish(self, grid: WindowGrid, duration: float) -> tuple[list[Event], Curves]:
        """Events, best first, and the activation curves of the classes that matter.

        Args:
            grid: Where the steps lie.
            duration: Seconds; events end there at the latest.
        """
        classes = len(self.labels)
        activation = np.concatenate(self._activation or [np.zeros((0, classes), np.float16)])
        valid = np.concatenate(self._valid or [np.zeros(0, bool)])
        self._activation.clear()
        self._valid.clear()
        recipe, kept = self._recipe, self._max_total
        video = None
        if recipe.needs_video_scores:
            video = video_scores(activation, valid, settings=self._pieces)
        for index in range(classes):  # by column: smoothing works in double precision
            column = slice(index, index + 1)
            activation[:, column] = smooth(
                activation[:, column], valid, recipe.smoothing, by=recipe.filter
            )
        found = candidate_events(
            activation,
            recipe,
            self.labels,
            grid,
            duration=duration,
            video_scores=video,
            min_score=self._min_score,
            most=None if kept is None else most_kept(len(valid), kept, self._pieces),
        )
        events = once(found)
        return events, self._curves(activation, events, grid)

    def _curves(
        self, activation: NDArray[np.float16], events: list[Event], grid: WindowGrid
    ) -> Curves:
        """Curves of the classes with events, by their best, and of a few strong ones without."""
        labels = list(dict.fromkeys(event.label for event in events))
        peaks = activation.max(axis=0, initial=0)
        strongest = [self.labels[i] for i in np.argsort(-peaks) if peaks[i] > SPARE_CURVE_PEAK]
        labels += [label for label in strongest if label not in set(labels)][:SPARE_CURVES]
        columns = [self.labels.index(label) for label in labels]
        values = activation[:, columns].astype(np.float32)
        return Curves(grid.centres(len(activation)), tuple(labels), values)
