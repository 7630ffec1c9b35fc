"""From activation to events: the standard recipe of weakly supervised temporal localization.

Several thresholds, connected runs, outer-inner contrast, soft-NMS (CO2-Net, DELU), class by class,
on the activation of any model. Lengths are differences of borders, without the "+ 1" of some public
codes, which is wrong in seconds; a run of the first step alone counts like any other.

Shapes: T steps of a grid, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.softnms import multiclass_soft_nms

FloatArray = NDArray[np.float32]
AnyFloats = NDArray[np.floating[Any]]
FILTERS = ("mean", "median")
SOFT_NMS_BLOCK = 1024  # candidates suppressed in one go, or one run if that has more


@dataclass(frozen=True, slots=True)
class Recipe:
    """How activation becomes events.

    Attributes:
        smoothing: Steps around each that smooth its activation; single noisy steps split events.
        filter: What is taken of these steps: their ``mean``, or their ``median``, which leaves the
            borders of events steep and drops peaks of less than half of them.
        thresholds: Each one's connected runs are candidates.
        outer: Width of the surroundings that are compared with a candidate, in its lengths; 0
            compares it with nothing.
        sigma: Width of the Gaussian soft-NMS, per class.
        min_score: Candidates that end below it are dropped.
        video_weight: Weight of the video's score of the class beside the contrast, so that
            candidates of two videos can be ranked: score = (contrast + w video) / (1 + w).
        min_video_score: Classes whose video score is below it are left out; the best class stays.
    """

    smoothing: int = 5
    filter: str = "mean"
    thresholds: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    outer: float = 0.25
    sigma: float = 0.4
    min_score: float = 0.001
    video_weight: float = 0.0
    min_video_score: float = 0.0

    def __post_init__(self) -> None:
        if self.smoothing < 1 or self.outer < 0 or self.sigma <= 0 or not self.thresholds:
            raise ValueError(f"smoothing, outer, sigma or thresholds out of range: {self}")
        if self.filter not in FILTERS:
            raise ValueError(f"filter={self.filter!r} is none of {', '.join(FILTERS)}")

    @property
    def needs_video_scores(self) -> bool:
        """Whether events depend on the video's score of their class."""
        return bool(self.video_weight or self.min_video_score)


# What a simulation on UnAV-100's annotations favours of the values in use: several thresholds on
# the raw probabilities of each class (scaling the activation of a video to [0, 1] first, as several
# public codes do, breaks events that fill the video), an outer width of 0.5.
STANDARD = Recipe(outer=0.5, video_weight=0.2)
STANDARD_KEPT = 100  # candidates of a video


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


def smooth(
    activation: AnyFloats, valid: NDArray[np.bool_], width: int, *, by: str = "mean"
) -> FloatArray:
    """Centred mean or median of the valid ones of ``width`` steps; zero where a step is not valid.

    Args:
        activation: (T, C).
        valid: (T,) steps at which both modalities were there.
        width: Number of steps; an even width reaches one step further back than forward.
        by: One of `FILTERS`. The median of an even number is the mean of the middle two.
    """
    if by == "median":
        return _window_medians(activation, valid, width)
    weights = valid.astype(np.float64)[:, None]
    sums = _window_sums(activation * weights, width)
    counts = _window_sums(weights, width)
    return (sums / np.maximum(counts, 1) * weights).astype(np.float32)


def _window_medians(activation: AnyFloats, valid: NDArray[np.bool_], width: int) -> FloatArray:
    """Median over the valid ones of [t - width // 2, t - width // 2 + width); 0 at others."""
    out = np.zeros(activation.shape, np.float32)
    counts = _window_sums(valid.astype(np.float64)[:, None], width)[:, 0].astype(np.int64)
    here = np.flatnonzero(valid)
    # A class at a time: what is sorted has ``width`` float64 values a step.
    for column in range(activation.shape[1] if len(here) else 0):
        padded = np.full(len(valid) + width - 1, np.inf)
        padded[width // 2 :][: len(valid)][valid] = activation[valid, column]
        ordered = np.sort(np.lib.stride_tricks.sliding_window_view(padded, width)[here], axis=1)
        rows, found = np.arange(len(here)), counts[here]
        out[here, column] = (ordered[rows, (found - 1) // 2] + ordered[rows, found // 2]) / 2
    return out


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
        outer: Surroundings on either side, in lengths of the run, at least one step; none for 0.

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
    margin = np.maximum(1 if outer else 0, np.rint(outer * length).astype(np.int64))
    before, after = np.maximum(begin - margin, 0), np.minimum(end + margin, len(activation))
    around = (total[after] - total[before]) - (total[end] - total[begin])
    outside = around / np.maximum((after - before) - length, 1)
    return begin, end, inside - outside


def _runs_above(activation: AnyFloats, level: float) -> NDArray[np.int64]:
    """(N, 2) first step and step after the last of each run with activation above ``level``."""
    above = np.concatenate([[False], activation > level, [False]])
    return np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)


def segments_from_activation(
    activation: AnyFloats, recipe: Recipe, *, video_scores: AnyFloats | None = None
) -> Segments:
    """Events of all classes from smoothed activation.

    Args:
        activation: (T, C), already smoothed, zero where it is not valid.
        recipe: Thresholds, contrast, suppression.
        video_scores: (C,) probability of each class anywhere in the video; needed where the recipe
            uses them.

    Returns:
        Segments in grid units, best first.

    Raises:
        ValueError: The recipe uses video scores and there are none.
    """
    if video_scores is None:
        if recipe.needs_video_scores:
            raise ValueError("the recipe ranks by scores of the video: give video_scores")
        video_scores = np.zeros(activation.shape[1])
    wanted = video_scores >= min(recipe.min_video_score, video_scores.max(initial=0.0))
    found = []
    for index in np.flatnonzero((activation > min(recipe.thresholds)).any(axis=0) & wanted):
        rows = candidates(activation[:, index], thresholds=recipe.thresholds, outer=recipe.outer)
        bonus = recipe.video_weight * float(video_scores[index])
        found += [(*kept, int(index)) for kept in _suppress(*rows, recipe, bonus=bonus)]
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
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    score: NDArray[np.float64],
    recipe: Recipe,
    *,
    bonus: float,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Gaussian soft-NMS of one class: segments (N, 2) and scores (N,), in blocks.

    Candidates overlap only inside a run of the lowest threshold. So each such run is suppressed as
    if it were a class of its own, many at once: the same result, and the work stays linear in the
    length of the video. What is not positive with the bonus is dropped before.

    Args:
        begin: (N,) first step, rising.
        end: (N,) step after the last.
        score: (N,) contrast.
        recipe: Width of the decay, smallest score.
        bonus: Weighted score of the video, added to every contrast.
    """
    score = (score + bonus) / (1 + recipe.video_weight)
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
