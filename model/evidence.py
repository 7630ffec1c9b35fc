"""Evidence of events in one modality, and where two modalities agree: CLASP's MEAE.

Shapes: B videos, C channels, T steps, K classes. Probabilities are independent per class
(multi-label), so that two events at once do not compete.

Source: arXiv 2508.04566 states that each modality predicts by itself and that the discrepancy of
the two predictions becomes an agreement score for each step. The measures are this project's
reconstruction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PROBABILITY_FLOOR = 1e-6  # class scores come in half precision, which knows nothing smaller
LOGIT_FLOOR = -40.0  # the product of two such probabilities is a normal number in float32
MEASURES = ("bernoulli", "softmax", "l1", "cosine", "product", "confidence")


def bernoulli_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence between Bernoulli(p) and Bernoulli(q) over ln 2, in [0, 1].

    H((p + q) / 2) - (H(p) + H(q)) / 2 with H the binary entropy in bits, element-wise.
    """
    divergence = _entropy_bits((p + q) / 2) - (_entropy_bits(p) + _entropy_bits(q)) / 2
    return divergence.clamp(0.0, 1.0)


def _entropy_bits(p: Tensor) -> Tensor:
    p = p.to(torch.promote_types(p.dtype, torch.float32))  # in half precision 1 - floor is 1
    p = p.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -(p * p.log2() + (1 - p) * torch.log2(1 - p))


def class_agreement(audio: Tensor, vision: Tensor) -> Tensor:
    """Agreement on each class: sqrt(Pa * Pv) * (1 - d), in [0, 1]; any shape, element-wise.

    The confidence factor is needed: where nothing happens both modalities say "nothing", and a
    pure divergence would call background perfect agreement.

    Args:
        audio: Probability of each class by sound.
        vision: Probability of each class by picture.
    """
    return (audio * vision).sqrt() * (1 - bernoulli_divergence(audio, vision))


def agreement_score(
    audio: Tensor, vision: Tensor, *, measure: str = "bernoulli", differentiable: bool = False
) -> Tensor:
    """How far the two modalities support one event, at each step.

    Args:
        audio: (B, K, T) logits by sound.
        vision: (B, K, T) logits by picture.
        measure: ``bernoulli`` the best class agreement (`class_agreement`); the others multiply
            the best joint confidence max_c sqrt(Pa Pv) by 1 - d, with d the Jensen-Shannon
            divergence of the two ``softmax`` distributions over classes, the normalised ``l1``
            distance of the probabilities, or one minus their ``cosine``; ``product`` is
            max_c Pa Pv; ``confidence`` leaves the discrepancy out.
        differentiable: Whether gradient passes.

    Returns:
        (B, T) in [0, 1].

    Raises:
        ValueError: The measure is unknown.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}: use one of {MEASURES}")
    audio, vision = audio.float(), vision.float()
    if differentiable:  # the root has no slope at 0
        audio, vision = audio.clamp(min=LOGIT_FLOOR), vision.clamp(min=LOGIT_FLOOR)
    else:
        audio, vision = audio.detach(), vision.detach()
    heard, seen = audio.sigmoid(), vision.sigmoid()
    if measure == "bernoulli":
        return class_agreement(heard, seen).amax(1)
    joint = (heard * seen).amax(1)
    if measure == "product":
        return joint
    return joint.sqrt() * (1 - _discrepancy(audio, vision, measure))


def _discrepancy(audio: Tensor, vision: Tensor, measure: str) -> Tensor:
    """(B, T) in [0, 1] from logits (B, K, T)."""
    heard, seen = audio.sigmoid(), vision.sigmoid()
    if measure == "l1":
        total = heard.sum(1) + seen.sum(1)
        return (heard - seen).abs().sum(1) / total.clamp(min=PROBABILITY_FLOOR)
    if measure == "cosine":
        return (1 - torch.cosine_similarity(heard, seen, dim=1)).clamp(0.0, 1.0)
    if measure == "softmax":
        return _distribution_divergence(audio.log_softmax(1), vision.log_softmax(1))
    return torch.zeros_like(heard[:, 0])


def _distribution_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence over ln 2 of log-distributions (B, K, T) along K: (B, T)."""
    middle = torch.logaddexp(p, q) - math.log(2)
    halves = [(x.exp() * (x - middle)).sum(1) for x in (p, q)]
    return ((halves[0] + halves[1]) / (2 * math.log(2))).clamp(0.0, 1.0)
