"""From what the network says at points to a few intervals with class and score.

Shapes: T steps, P points, K classes, M detections.
"""

from __future__ import annotations

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
    """UnAV's values of inference.

    Attributes:
        min_score: Probability that a point must pass before suppression, and after it.
        per_level: Candidates kept on each level.
        min_length: Steps below which an interval is dropped.
        sigma: Of Soft-NMS.
        max_per_class: Detections kept of a class.
        max_total: Detections kept of a video.
        chunk: Steps that are looked at at once; longer videos slide.
        overlap: Steps that neighbouring pieces share.
    """

    min_score: float = 0.001
    per_level: int = 2000
    min_length: float = 0.05
    sigma: float = 0.4
    max_per_class: int = 100
    max_total: int = 100
    chunk: int = 2304
    overlap: int = 512


def candidates(prediction: Prediction, video: int, settings: DecodingSettings) -> Detected:
    """Intervals of one video of a batch before suppression."""
    scores = prediction.logits[video].sigmoid() * prediction.mask[video][:, None]
    found = []
    first = 0
    for length in prediction.lengths:
        level = scores[first : first + length].flatten()
        count = min(settings.per_level, len(level))
        top, index = level.topk(count)
        index = index[top > settings.min_score] + first * scores.shape[1]
        found.append(index)
        first += length
    index = torch.cat(found)
    point, label = index // scores.shape[1], index % scores.shape[1]
    reach = prediction.distances[video][point, label] * prediction.points.strides[point][:, None]
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

    A sequence longer than ``settings.chunk`` is cut into overlapping pieces. In an overlap each
    piece answers for the candidates whose centre is nearer to its own middle; suppression then
    runs once over all of them.

    Args:
        model: In eval mode.
        vision: (Cv, T).
        audio: (Ca, T).
        vision_mask: (T,).
        audio_mask: (T,).
        settings: Of decoding.
    """
    settings = settings or DecodingSettings()
    chunk, overlap = settings.chunk, settings.overlap
    steps = vision.shape[-1]
    starts = list(range(0, max(1, steps - overlap), chunk - overlap))
    found = []
    for number, start in enumerate(starts):
        piece = slice(start, min(steps, start + chunk))
        prediction = model(
            vision[None, :, piece],
            audio[None, :, piece],
            vision_mask[None, piece],
            audio_mask[None, piece],
        )
        local = candidates(prediction, 0, settings)
        segments = local.segments + start
        centre = segments.mean(-1)
        low = -torch.inf if number == 0 else start + overlap / 2
        high = torch.inf if number == len(starts) - 1 else start + chunk - overlap / 2
        mine = (centre >= low) & (centre < high)
        found.append((segments[mine], local.scores[mine], local.labels[mine]))
    joined = Detected(*(torch.cat(part) for part in zip(*found, strict=True)))
    return suppress(joined, settings)
