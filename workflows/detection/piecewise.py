"""Features on their way into a network piece by piece, and the curves that come out.

Shapes: T steps, n steps of a block, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.features import Features
from extractors.windows import WindowGrid
from model.decoding import step_activation
from model.loco import Prediction
from pipeline.core.events import Curves, Event

BLOCK_STEPS = 256  # steps of stored features that are read at once
PLAIN_CURVES = 3  # strongest classes without an event that still get a curve
ARRAYS = ("vision", "audio", "vision_mask", "audio_mask")  # what a network reads of the features

Block = tuple[Tensor, Tensor, Tensor, Tensor]
"""Vision (Cv, n), audio (Ca, n) and their masks (n,)."""


def block_of(rows: Mapping[str, NDArray[Any]], *, modalities: str = "both") -> Block:
    """Some consecutive steps as a network takes them.

    Args:
        rows: Arrays of `ARRAYS`, first axis time; others are not looked at.
        modalities: ``both``, or the one to keep; the other is masked as if it were missing.
    """
    vision, audio, vision_mask, audio_mask = (torch.from_numpy(np.array(rows[n])) for n in ARRAYS)
    if modalities == "vision":
        audio_mask.fill_(False)
    elif modalities == "audio":
        vision_mask.fill_(False)
    return vision.T, audio.T, vision_mask, audio_mask


def stored_blocks(features: Features, *, modalities: str = "both") -> Iterator[Block]:
    """Features from a store, read from disk block by block.

    Args:
        features: Of one video; may be memory-mapped.
        modalities: See `block_of`.
    """
    for first in range(0, features.steps, BLOCK_STEPS):
        part = slice(first, first + BLOCK_STEPS)
        yield block_of({name: features[name][part] for name in ARRAYS}, modalities=modalities)


class ActivationTrack:
    """For each step and class the best probability of any point over it, from piece to piece.

    Where the pieces of a long video overlap, the larger value counts. Kept in half precision, which
    is finer than any picture of a curve: 2 K bytes a step, 6 MB for two hours and 100 classes.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        self._done: list[NDArray[np.float16]] = []
        self._open = np.zeros((0, classes), np.float32)  # steps that a next piece may share
        self._start = 0  # step of the first of them

    def __call__(self, start: int, prediction: Prediction) -> None:
        """Take what a network says of the piece that begins at step ``start``."""
        piece = step_activation(prediction, 0).cpu().numpy()
        final = start - self._start
        self._done.append(self._open[:final].astype(np.float16))
        shared = self._open[final:]
        np.maximum(piece[: len(shared)], shared, out=piece[: len(shared)])
        self._open, self._start = piece, start

    def curves(self, events: Sequence[Event], classes: Sequence[str], grid: WindowGrid) -> Curves:
        """Curves of the classes with events, by their best, and of a few strong ones without.

        Args:
            events: Best first.
            classes: The K names.
            grid: Where the steps lie.
        """
        blocks = [*self._done, self._open.astype(np.float16)]
        peaks = np.max([block.max(axis=0, initial=0) for block in blocks], axis=0)
        labels = list(dict.fromkeys(event.label for event in events))
        strongest = [classes[index] for index in np.argsort(-peaks, kind="stable")]
        labels += [label for label in strongest if label not in set(labels)][:PLAIN_CURVES]
        number = {name: index for index, name in enumerate(classes)}
        columns = [number[label] for label in labels]
        values = np.concatenate([block[:, columns] for block in blocks]).astype(np.float32)
        return Curves(grid.centres(len(values)), tuple(labels), values)
