"""CLASP without learned weights: anchors and propagation on probabilities of frozen nets.

What is CLASP in it: evidence of each modality by itself and their agreement (`model.evidence`), the
same anchors of the same scores (`model.anchors`), and propagation from anchors to all steps that
background may refuse. What is not: everything that CLASP learns. The classifiers are those of the
frozen nets; where CLASP compares learned projections, steps are compared by the cosine of their own
embeddings; what an anchor hands on is not a joined feature but what both modalities say there of
each class; and the gate is the similarity itself.

Shapes: B videos, T steps, K classes, D width of an embedding, N anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.anchors import Anchors, select_anchors
from model.evidence import class_agreement
from model.propagation import SCORE_FLOOR


@dataclass(frozen=True, slots=True)
class AnchorSettings:
    """Which steps are anchors, and how far their word reaches.

    The sizes are CLASP's as reconstructed. The temperature was chosen among 0.03, 0.1 and 0.3 on
    real sounds and pictures put together; between the first two there was no difference.

    Attributes:
        scope: ``global``, ``local`` or ``both``.
        divisor: Steps for each global anchor.
        window: Steps of a local window.
        per_window: Anchors of a window.
        temperature: Of the softmax over cosines.
        propagate: Whether anchors speak for other steps at all.
    """

    scope: str = "both"
    divisor: int = 8
    window: int = 16
    per_window: int = 2
    temperature: float = 0.1
    propagate: bool = True


@dataclass(frozen=True, slots=True)
class Stream:
    """One modality as frozen nets see it.

    Attributes:
        probabilities: (B, K, T) of each class by this modality alone.
        embeddings: (B, D, T).
    """

    probabilities: Tensor
    embeddings: Tensor


def anchored_activation(
    audio: Stream, vision: Stream, valid: Tensor, settings: AnchorSettings | None = None
) -> tuple[Tensor, Tensor]:
    """Agreement of sound and picture on each class, after its anchors have spoken.

    With s the best class agreement of a step, anchors k are the steps of the largest s. In each
    modality w = softmax(cos(e_t, e_k) / temperature + log(s_k + 1e-3)) over anchors, with the
    video's mean embedding taken off, g = max(0, sum_k w cos), and
    P' = P + g (sum_k w A_k - P), A_k the class agreement at the anchor. The result is the class
    agreement of both P'. A step that resembles no anchor keeps what its nets said.

    Args:
        audio: Sound.
        vision: Picture.
        valid: (B, T) steps at which there are both; others neither speak nor are answered for.
        settings: Anchors and reach.

    Returns:
        Activation (B, K, T), 0 where not valid; and the agreement score s (B, T) that chose the
        anchors.
    """
    settings = settings or AnchorSettings()
    there = valid[:, None]
    agreed = class_agreement(audio.probabilities, vision.probabilities) * there
    score = agreed.amax(1)
    if not settings.propagate:
        return agreed, score
    anchors = select_anchors(
        score,
        valid,
        scope=settings.scope,
        divisor=settings.divisor,
        window=settings.window,
        per_window=settings.per_window,
    )
    word = _at(agreed, anchors)
    bias = (score.gather(1, anchors.index) + SCORE_FLOOR).log()
    bias = bias.masked_fill(~anchors.valid, torch.finfo(bias.dtype).min)
    heard, seen = (
        _enhanced(stream, there, anchors, word, bias, settings.temperature)
        for stream in (audio, vision)
    )
    return class_agreement(heard, seen) * there, score


def _enhanced(
    stream: Stream,
    there: Tensor,
    anchors: Anchors,
    word: Tensor,
    bias: Tensor,
    temperature: float,
) -> Tensor:
    """(B, K, T) probabilities of one modality after the anchors' word (B, N, K)."""
    unit = _centred(stream.embeddings, there)
    cosine = unit.transpose(1, 2) @ _at(unit, anchors).transpose(1, 2)  # (B, T, N)
    weight = (cosine / temperature + bias[:, None]).softmax(2)
    gate = (weight * cosine).sum(2).clamp(0.0, 1.0) * anchors.valid.any(1)[:, None]
    read = (weight @ word).transpose(1, 2)
    return stream.probabilities + gate[:, None] * (read - stream.probabilities)


def _centred(embeddings: Tensor, there: Tensor) -> Tensor:
    """(B, D, T) directions from the mean of a video's valid steps; 0 where there is none.

    Frozen nets give any two windows a large common part, so that plain cosines tell little.
    """
    embeddings = embeddings * there
    mean = embeddings.sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)
    return F.normalize((embeddings - mean) * there, dim=1)


def _at(values: Tensor, anchors: Anchors) -> Tensor:
    """(B, C, T) at the anchors: (B, N, C)."""
    index = anchors.index[..., None].expand(-1, -1, values.shape[1])
    return values.transpose(1, 2).gather(1, index)
