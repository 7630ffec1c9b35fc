"""A trained CLASP as a detector on features: activation, then events in seconds.

Shapes: T steps, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from extractors.features import Features, Rows
from extractors.windows import WindowGrid
from model.activation import STANDARD, STANDARD_KEPT, Recipe, smooth
from model.checkpoint import Card
from model.clasp import CLASP
from model.decoding import DecodingSettings
from model.localisation import SequenceActivation, VideoActivation
from pipeline.core.events import AGREEMENT, Curves, Event
from workflows.detection.localise import candidate_events, most_kept, once
from workflows.detection.piecewise import PLAIN_CURVES, block_of, stored_blocks


@dataclass(frozen=True, slots=True)
class LocalisationSettings:
    """From activation to events.

    Attributes:
        recipe: Smoothing, thresholds, contrast, suppression.
        max_total: Candidates kept of a video; of a video in several pieces, for each piece.
        pieces: How a long video is cut.
    """

    recipe: Recipe = STANDARD
    max_total: int = STANDARD_KEPT
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
        scan = self.scanned(features)
        return scan.candidates(features.grid, features.summary.duration)

    def detect(self, features: Features) -> tuple[list[Event], Curves]:
        """Events of one video as people want them, best first, each once; and its curves.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        scan = self.scanned(features)
        events = scan.events(features.grid, features.summary.duration)
        return events, scan.curves(events, features.grid)

    def activate(self, features: Features) -> VideoActivation:
        """Activation of every step.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        return self.scanned(features).activation

    def scan(self, *, curves: bool = True) -> WeakScan:
        """A fresh look at one video whose features come in blocks; curves are always kept."""
        return WeakScan(self._model, self.card, settings=self._settings)

    def scanned(self, features: Features) -> WeakScan:
        """A look at all of a stored video.

        Raises:
            CheckpointError: The features are of another backbone than the model was trained on.
        """
        self.card.check_features(features.digest)
        scan = self.scan()
        scan.add_stored(features)
        return scan


class WeakScan:
    """One video on its way through a model: rows in as they come, then events and curves out.

    Args:
        model: In eval mode.
        card: Its card.
        settings: From activation to events.
    """

    def __init__(self, model: CLASP, card: Card, *, settings: LocalisationSettings) -> None:
        self._card, self._settings = card, settings
        self._modalities = str(card.data.get("modalities", "both"))
        self._sequence = SequenceActivation(model, settings=settings.pieces)

    def add(self, rows: Rows) -> None:
        """Take the next consecutive steps: embeddings and masks of both modalities."""
        self._sequence.add(*block_of(rows, modalities=self._modalities))

    def add_stored(self, features: Features) -> None:
        """Take all of a stored video."""
        for block in stored_blocks(features, modalities=self._modalities):
            self._sequence.add(*block)

    @cached_property
    def activation(self) -> VideoActivation:
        """Of every step, once all rows have been taken."""
        return self._sequence.finish()

    def candidates(self, grid: WindowGrid, duration: float) -> list[Event]:
        """Candidates for ranking, best first.

        Args:
            grid: Where the steps lie.
            duration: Seconds; events end there at the latest.
        """
        said, recipe = self.activation, self._settings.recipe
        values, valid = said.activation.numpy(), said.valid.numpy()
        return candidate_events(
            smooth(values, valid, recipe.smoothing, by=recipe.filter),
            recipe,
            self._card.classes,
            grid,
            duration=duration,
            video_scores=said.video.numpy(),
            most=most_kept(len(valid), self._settings.max_total, self._settings.pieces),
        )

    def events(self, grid: WindowGrid, duration: float) -> list[Event]:
        """Events as people want them, best first, each once; see `candidates`."""
        return once(self.candidates(grid, duration))

    def curves(self, events: Sequence[Event], grid: WindowGrid) -> Curves:
        """Classes with events by their best, a few strong ones without, and the agreement."""
        said, classes = self.activation, self._card.classes
        labels = list(dict.fromkeys(event.label for event in events))
        strongest = [classes[index] for index in np.argsort(-said.video.numpy(), kind="stable")]
        labels += [label for label in strongest if label not in set(labels)][:PLAIN_CURVES]
        columns = [classes.index(label) for label in labels]
        values = np.concatenate(
            [said.activation.numpy()[:, columns], said.agreement.numpy()[:, None]], axis=1
        )
        times = grid.centres(len(values))
        return Curves(times, (*labels, AGREEMENT), values.astype(np.float32))
