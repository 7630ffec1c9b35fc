"""Where two frozen nets name the same class: calibration of their scores, and their agreement.

Shapes: T steps of a grid, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from model.evidence import PROBABILITY_FLOOR, class_agreement

FloatArray = NDArray[np.float32]
AnyFloats = NDArray[np.floating[Any]]


def log_odds(probabilities: ArrayLike) -> FloatArray:
    """ln(p / (1 - p)) of probabilities, which are first kept off 0 and 1."""
    p = np.asarray(probabilities, dtype=np.float32)
    p = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float32)


def calibrate(
    probabilities: AnyFloats, *, slope: float, midpoint: float | FloatArray
) -> FloatArray:
    """Platt scaling on the log-odds: sigmoid(slope * (logit(p) - midpoint)).

    Monotone, so the order of scores within a class does not change.

    Args:
        probabilities: (T, C) a net's own scores.
        slope: Steepness.
        midpoint: Log-odds that count as an even chance; one, or one per class.

    Source: J. Platt, Probabilistic outputs for support vector machines, 1999.
    """
    z = slope * (log_odds(probabilities) - midpoint)
    return np.exp(-np.logaddexp(0.0, -z)).astype(np.float32)


def agreement(audio: FloatArray, vision: FloatArray) -> FloatArray:
    """Agreement per class and step; see `model.evidence.class_agreement`.

    Args:
        audio: (T, C) probability of each class by sound.
        vision: (T, C) probability of each class by picture.

    Returns:
        (T, C).
    """
    return class_agreement(torch.from_numpy(audio), torch.from_numpy(vision)).numpy()
