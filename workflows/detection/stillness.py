"""A sound or picture that never changes: silence, darkness, a still; nothing happens in it.

A stream can exist and hold nothing. Its features then are the same at every step, and a network
that has never been shown such a stream may say anything of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.features import Features
from extractors.spec import MODALITIES
from workflows.detection.piecewise import BLOCK_STEPS

TOLERANCE = 1e-4  # of the largest value of a step: rounding differs between batches
SMALLEST = 1e-6
NOUNS = {"vision": "picture", "audio": "sound"}
LIKE = {"vision": "as in darkness or a still", "audio": "as in silence"}


class Stillness:
    """Watches the embeddings of one video as they come."""

    def __init__(self) -> None:
        self._first: dict[str, NDArray[Any]] = {}
        self._change: dict[str, float] = {}
        self._steps: dict[str, int] = dict.fromkeys(MODALITIES, 0)

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Take the next consecutive steps: embeddings and masks of both modalities."""
        for name in MODALITIES:
            values = np.asarray(rows[name])[np.asarray(rows[f"{name}_mask"])].astype(np.float32)
            if not len(values):
                continue
            first = self._first.setdefault(name, values[0])
            change = float(np.abs(values - first).max())
            self._change[name] = max(change, self._change.get(name, 0.0))
            self._steps[name] += len(values)

    def add_stored(self, features: Features) -> None:
        """Take all of a stored video."""
        for start in range(0, features.steps, BLOCK_STEPS):
            part = slice(start, start + BLOCK_STEPS)
            self.add({name: array[part] for name, array in features.arrays.items()})

    @property
    def still(self) -> list[str]:
        """Modalities of two steps or more that are all alike."""
        return [
            name
            for name in MODALITIES
            if self._steps[name] > 1
            and self._change[name] <= TOLERANCE * np.abs(self._first[name]).max() + SMALLEST
        ]

    @property
    def missing(self) -> list[str]:
        """Modalities without a step."""
        return [name for name in MODALITIES if not self._steps[name]]

    def notes(self) -> list[str]:
        """A sentence for each modality in which nothing happens."""
        said = [
            f"the {NOUNS[name]} is the same from beginning to end, {LIKE[name]}: no event is both "
            "seen and heard"
            for name in self.still
        ]
        if self.missing:
            lacking = " and ".join(NOUNS[name] for name in self.missing)
            said.append(f"an event must be seen and heard; without {lacking} none can be found")
        return said
