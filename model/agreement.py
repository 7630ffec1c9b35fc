"""Where sound and picture name the same class: agreement per step, and events from it, untrained.

Shapes: T steps of a grid, C classes. Probabilities are independent per class (multi-label), so
that two events at once do not compete.

The agreement score is the class-wise form of CLASP's (arXiv 2508.04566), reconstructed: CLASP's
paper states that the discrepancy between the audio and the visual prediction of a step becomes an
agreement score; measure and confidence factor are this project's choice. The way from activation
to events is the standard recipe of weakly supervised temporal localization (several thresholds,
connected runs, outer-inner contrast, soft-NMS: CO2-Net, DELU).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from model.softnms import multiclass_soft_nms

FloatArray = NDArray[np.float32]
AnyFloats = NDArray[np.floating[Any]]
PROBABILITY_FLOOR = 1e-6  # class scores come in half precision, which knows nothing smaller
SOFT_NMS_BLOCK = 1024  # candidates suppressed in one go, or one run if that has more


@dataclass(frozen=True, slots=True)
class Recipe:
    """How activation becomes events.

    Attributes:
        smoothing: Steps of the centred mean over the activation; single noisy steps split events.
        thresholds: Each one's connected runs are candidates.
        outer: Width of the surroundings that are compared with a candidate, in its lengths.
        sigma: Width of the Gaussian soft-NMS, per class.
        min_score: Candidates that end below it are dropped.
    """

    smoothing: int = 5
    thresholds: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    outer: float = 0.25
    sigma: float = 0.4
    min_score: float = 0.001

    def __post_init__(self) -> None:
        if self.smoothing < 1 or self.outer < 0 or self.sigma <= 0 or not self.thresholds:
            raise ValueError(f"smoothing, outer, sigma or thresholds out of range: {self}")


@dataclass(frozen=True, slots=True)
class Segments:
    """Scored segments on the grid, best first.

    Attributes:
        starts: (N,) position of the first border, in steps; step k reaches from k - 0.5 to k + 0.5.
        ends: (N,) position of the last border.
        classes: (N,) class index.
        scores: (N,) score in (0, 1].
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)


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


def bernoulli_divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """Jensen-Shannon divergence between Bernoulli(p) and Bernoulli(q) over ln 2, in [0, 1].

    H((p + q) / 2) - (H(p) + H(q)) / 2 with H the binary entropy in bits, element-wise.
    """
    divergence = _entropy_bits((p + q) / 2) - (_entropy_bits(p) + _entropy_bits(q)) / 2
    return np.clip(divergence, 0.0, 1.0)


def _entropy_bits(p: AnyFloats) -> AnyFloats:
    p = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def agreement(audio: FloatArray, vision: FloatArray) -> FloatArray:
    """Agreement per class and step: sqrt(Pa * Pv) * (1 - d), in [0, 1].

    The confidence factor is needed: where nothing happens both nets say "nothing", and a pure
    divergence would call background perfect agreement.

    Args:
        audio: (T, C) probability of each class by sound.
        vision: (T, C) probability of each class by picture.

    Returns:
        (T, C).
    """
    return np.sqrt(audio * vision) * (1 - bernoulli_divergence(audio, vision))


def smooth(activation: AnyFloats, valid: NDArray[np.bool_], width: int) -> FloatArray:
    """Centred mean over the valid ones of ``width`` steps; zero where a step is not valid.

    Args:
        activation: (T, C).
        valid: (T,) steps at which both modalities were there.
        width: Number of steps; an even width reaches one step further back than forward.
    """
    weights = valid.astype(np.float64)[:, None]
    sums = _window_sums(activation * weights, width)
    counts = _window_sums(weights, width)
    return (sums / np.maximum(counts, 1) * weights).astype(np.float32)


def _window_sums(values: AnyFloats, width: int) -> NDArray[np.float64]:
    """Sums over [t - width // 2, t - width // 2 + width), clipped to the array, along axis 0."""
    steps = len(values)
    total = np.zeros((steps + 1, *values.shape[1:]), dtype=np.float64)
    np.cumsum(values, axis=0, dtype=np.float64, out=total[1:])
    first = np.arange(steps) - width // 2
    return total[np.minimum(first + width, steps)] - total[np.maximum(first, 0)]


def candidates(
    activation: AnyFloats, *, thresholds: tuple[float, ...], outer: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Connected runs above each threshold of one class, scored by outer-inner contrast.

    Args:
        activation: (T,).
        thresholds: Levels; the runs of all of them are pooled, each run once.
        outer: Surroundings on either side, in lengths of the run, at least one step.

    Returns:
        First step, step after the last, and score (mean inside - mean outside; what lies beyond
        the ends of the video does not count, and no surroundings at all count as 0), (N,) each,
        by first step.
    """
    runs = np.concatenate([_runs_above(activation, level) for level in thresholds])
    runs = np.unique(runs, axis=0)
    begin, end = runs[:, 0], runs[:, 1]
    total = np.concatenate([[0.0], np.cumsum(activation, dtype=np.float64)])
    length = end - begin
    inside = (total[end] - total[begin]) / length
    margin = np.maximum(1, np.rint(outer * length).astype(np.int64))
    before, after = np.maximum(begin - margin, 0), np.minimum(end + margin, len(activation))
    around = (total[after] - total[before]) - (total[end] - total[begin])
    outside = around / np.maximum((after - before) - length, 1)
    return begin, end, inside - outside


def _runs_above(activation: AnyFloats, level: float) -> NDArray[np.int64]:
    """(N, 2) first step and step after the last of each run with activation above ``level``."""
    above = np.concatenate([[False], activation > level, [False]])
    return np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)


def segments_from_activation(activation: AnyFloats, recipe: Recipe) -> Segments:
    """Events of all classes from smoothed activation.

    Args:
        activation: (T, C), already smoothed, zero where it is not valid.
        recipe: Thresholds, contrast, suppression.

    Returns:
        Segments in grid units, best first.
    """
    lowest = min(recipe.thresholds)
    found = []
    for index in np.flatnonzero((activation > lowest).any(axis=0)):
        rows = candidates(activation[:, index], thresholds=recipe.thresholds, outer=recipe.outer)
        found += [(*kept, int(index)) for kept in _suppress(*rows, recipe)]
    if not found:
        empty = np.zeros(0)
        return Segments(empty, empty, np.zeros(0, dtype=np.int64), empty)
    segments = np.concatenate([rows for rows, _, _ in found])
    scores = np.concatenate([row for _, row, _ in found])
    classes = np.concatenate([np.full(len(row), index) for _, row, index in found])
    order = np.argsort(-scores, kind="stable")
    starts, ends = (segments[order] - 0.5).T
    return Segments(starts, ends, classes[order], scores[order])


def _suppress(
    begin: NDArray[np.int64], end: NDArray[np.int64], score: NDArray[np.float64], recipe: Recipe
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Gaussian soft-NMS of one class: segments (N, 2) and scores (N,), in blocks.

    Candidates overlap only inside a run of the lowest threshold. So each such run is suppressed as
    if it were a class of its own, many at once: the same result, and the work stays linear in the
    length of the video. Contrasts that are not positive are dropped before.

    Args:
        begin: (N,) first step, rising.
        end: (N,) step after the last.
        score: (N,) contrast.
        recipe: Width of the decay, smallest score.
    """
    reach = np.maximum.accumulate(end)
    run = np.concatenate([[0], np.cumsum(begin[1:] >= reach[:-1])])
    good = score > max(recipe.min_score, 0.0)
    segments, score, run = np.stack([begin, end], axis=1)[good], score[good], run[good]
    block = np.concatenate([[0], np.cumsum(np.bincount(run))])[run] // SOFT_NMS_BLOCK
    for number in np.unique(block):
        here = block == number
        index, decayed = multiclass_soft_nms(
            torch.from_numpy(segments[here].astype(np.float64)),
            torch.from_numpy(score[here]),
            torch.from_numpy(run[here]),
            sigma=recipe.sigma,
            min_score=recipe.min_score,
            max_per_class=len(run),
            max_total=len(run),
        )
        yield segments[here][index.numpy()], decayed.numpy()
