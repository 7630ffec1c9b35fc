"""From what the network says at points to a few intervals with class and score.

Shapes: T steps, P points, K classes, M detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.loco import Prediction
from model.softnms import multiclass_soft_nms


@dataclass(frozen=True, slots=True)
class Detected:
    """Detections of one video, best first.

    Attributes:
        segments: (M, 2) start and end in steps of the finest level.
        scores: (M,) probability of the class, after suppression.
        labels: (M,) class numbers.
    """

    segments: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """How points become detections; the values are UnAV's, the last two ours.

    The overlap is the longest crop of the recipes (64 s on the default grid): no network that was
    trained on such crops knows longer events, so each event is whole in one piece at least. Pieces
    of three times that length keep the places and the reach of the attention near what training
    showed, and the memory of a piece near that of a short clip.

    Attributes:
        min_score: Probability that a point must pass before suppression, and after it.
        per_level: Candidates kept on each level.
        min_length: Steps below which an interval is dropped.
        sigma: Of Soft-NMS.
        max_per_class: Detections kept of a class; of a video in several pieces, in each piece.
        max_total: Detections kept of a video, likewise.
        chunk: Steps that are looked at at once; longer videos slide. See `model.sequence`.
        overlap: Steps that neighbouring pieces share at least.
    """

    min_score: float = 0.001
    per_level: int = 2000
    min_length: float = 0.05
    sigma: float = 0.4
    max_per_class: int = 100
    max_total: int = 100
    chunk: int = 768
    overlap: int = 256

    def __post_init__(self) -> None:
        if self.chunk <= 0 or not 0 <= self.overlap < self.chunk:
            raise ValueError(
                f"pieces of {self.chunk} steps cannot share {self.overlap}: the overlap must be "
                "from 0 to less than the piece"
            )


def candidates(prediction: Prediction, video: int, settings: DecodingSettings) -> Detected:
    """Intervals of one video of a batch before suppression, by level and falling score."""
    scores = prediction.logits[video].float().sigmoid() * prediction.mask[video][:, None]
    classes = scores.shape[1]
    found, first = [], 0
    for length in prediction.lengths:
        level = scores[first : first + length].flatten()
        index = (level > settings.min_score).nonzero()[:, 0]
        order = level[index].argsort(descending=True, stable=True)[: settings.per_level]
        found.append(index[order] + first * classes)
        first += length
    index = torch.cat(found)
    point, label = index // classes, index % classes
    reach = prediction.distances[video][point, label].float()
    reach = reach * prediction.points.strides[point][:, None]
    times = prediction.points.times[point]
    segments = torch.stack([times - reach[:, 0], times + reach[:, 1]], dim=-1)
    keep = segments[:, 1] - segments[:, 0] > settings.min_length
    return Detected(segments[keep], scores[point, label][keep], label[keep])


def suppress(found: Detected, settings: DecodingSettings) -> Detected:
    """Multi-class Soft-NMS."""
    index, scores = multiclass_soft_nms(
        found.segments,
        found.scores,
        found.labels,
        sigma=settings.sigma,
        min_score=settings.min_score,
        max_per_class=settings.max_per_class,
        max_total=settings.max_total,
    )
    return Detected(found.segments[index], scores, found.labels[index])


def decode(prediction: Prediction, settings: DecodingSettings | None = None) -> list[Detected]:
    """Detections of each video of a batch."""
    settings = settings or DecodingSettings()
    return [
        suppress(candidates(prediction, video, settings), settings)
        for video in range(prediction.logits.shape[0])
    ]


def step_activation(prediction: Prediction, video: int) -> Tensor:
    """For each step and class the best probability of any point over the step, (T, K).

    A point of level l stands for the 2^l steps from its own on.
    """
    scores = prediction.logits[video].float().sigmoid() * prediction.mask[video][:, None]
    steps, first = prediction.lengths[0], 0
    best = scores[:steps].clone()
    for level, length in enumerate(prediction.lengths):
        points = scores[first : first + length].repeat_interleave(2**level, 0)[:steps]
        best[: len(points)] = torch.maximum(best[: len(points)], points)
        first += length
    return best


def piece_hop(settings: DecodingSettings, *, alignment: int = 1) -> int:
    """Steps from the start of one piece to that of the next.

    Args:
        settings: ``chunk`` and ``overlap``.
        alignment: Starts are multiples of it where the pieces are long enough, so that a piece's
            levels and windows fall on those of the whole.
    """
    hop = settings.chunk - settings.overlap
    return hop - (hop % alignment if hop >= alignment else 0)


def piece_starts(steps: int, settings: DecodingSettings, *, alignment: int = 1) -> list[int]:
    """Where the pieces of a sequence start; see `piece_hop`."""
    if steps <= settings.chunk:
        return [0]
    hop = piece_hop(settings, alignment=alignment)
    return list(range(0, steps - (settings.chunk - hop), hop))
