"""From what the network says at points to a few intervals with class and score.

Shapes: T steps, P points, K classes, M detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.loco import LoCo, Prediction
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

    Attributes:
        min_score: Probability that a point must pass before suppression, and after it.
        per_level: Candidates kept on each level.
        min_length: Steps below which an interval is dropped.
        sigma: Of Soft-NMS.
        max_per_class: Detections kept of a class; a video in several pieces may have that many for
            each piece.
        max_total: Detections kept of a video, likewise.
        chunk: Steps that are looked at at once; longer videos slide.
        overlap: Steps that neighbouring pieces share. An event that is longer may be cut.
    """

    min_score: float = 0.001
    per_level: int = 2000
    min_length: float = 0.05
    sigma: float = 0.4
    max_per_class: int = 100
    max_total: int = 100
    chunk: int = 2304
    overlap: int = 512

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


def suppress(found: Detected, settings: DecodingSettings, *, pieces: int = 1) -> Detected:
    """Multi-class Soft-NMS; the limits hold for each piece."""
    index, scores = multiclass_soft_nms(
        found.segments,
        found.scores,
        found.labels,
        sigma=settings.sigma,
        min_score=settings.min_score,
        max_per_class=settings.max_per_class * pieces,
        max_total=settings.max_total * pieces,
    )
    return Detected(found.segments[index], scores, found.labels[index])


def decode(prediction: Prediction, settings: DecodingSettings | None = None) -> list[Detected]:
    """Detections of each video of a batch."""
    settings = settings or DecodingSettings()
    return [
        suppress(candidates(prediction, video, settings), settings)
        for video in range(prediction.logits.shape[0])
    ]


def piece_starts(steps: int, settings: DecodingSettings, *, alignment: int = 1) -> list[int]:
    """Where the pieces of a sequence start.

    Args:
        steps: Length of the sequence.
        settings: ``chunk`` and ``overlap``.
        alignment: Starts are multiples of it where the pieces are long enough, so that a piece's
            levels and windows fall on those of the whole.
    """
    if steps <= settings.chunk:
        return [0]
    hop = settings.chunk - settings.overlap
    hop -= hop % alignment if hop >= alignment else 0
    return list(range(0, steps - (settings.chunk - hop), hop))


@torch.inference_mode()
def detect_sequence(
    model: LoCo,
    vision: Tensor,
    audio: Tensor,
    vision_mask: Tensor,
    audio_mask: Tensor,
    *,
    settings: DecodingSettings | None = None,
) -> Detected:
    """Detections of one video of any length, in bounded memory.

    A sequence longer than ``settings.chunk`` is cut into overlapping pieces; suppression runs once
    over the candidates of all.

    Args:
        model: In eval mode.
        vision: (Cv, T); on any device, the pieces are moved to the model's.
        audio: (Ca, T).
        vision_mask: (T,).
        audio_mask: (T,).
        settings: Of decoding.

    Returns:
        Detections on the CPU.

    Raises:
        ValueError: The sequence has no step.
    """
    settings = settings or DecodingSettings()
    if vision.shape[-1] == 0:
        raise ValueError("a sequence of 0 steps holds no events")
    starts = piece_starts(vision.shape[-1], settings, alignment=model.alignment)
    inputs = (vision, audio, vision_mask, audio_mask)
    found = sequence_candidates(model, inputs, starts, settings=settings)
    return suppress(found, settings, pieces=len(starts))


def sequence_candidates(
    model: LoCo, inputs: Sequence[Tensor], starts: Sequence[int], *, settings: DecodingSettings
) -> Detected:
    """Candidates of a sequence in pieces, on the CPU.

    Of what two pieces share, each answers for the candidates whose centre is in its half.

    Args:
        model: In eval mode.
        inputs: As `detect_sequence` takes them.
        starts: Of the pieces.
        settings: Of decoding.
    """
    device = next(model.parameters()).device
    found, low = [], -torch.inf
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        piece = slice(start, start + settings.chunk)
        prediction = model(*(x[..., piece].to(device)[None] for x in inputs))
        local = candidates(prediction, 0, settings)
        segments = local.segments.cpu() + start
        centre = segments.mean(-1)
        high = torch.inf if following is None else (following + start + settings.chunk) / 2
        mine = (centre >= low) & (centre < high)
        found.append((segments[mine], local.scores.cpu()[mine], local.labels.cpu()[mine]))
        low = high
    return Detected(*(torch.cat(part) for part in zip(*found, strict=True)))
