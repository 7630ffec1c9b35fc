"""Mean average precision of events, vectorised in NumPy, equal to the field's public evaluators.

The rules are those of ActivityNet's detection benchmark as UnAV-100 uses it: a class at a time,
predictions of all videos by falling score; each takes the unmatched true event of its video with
the largest IoU, if that reaches the threshold; interpolated precision, area under the curve; the
mean over the classes that have true events.

Three things are settled here that public evaluators leave open. Equal scores are ordered by video,
start and end, so that the order of the input never matters. Predictions of a class without true
events are dropped instead of colliding with another class. Zero-length predictions have IoU 0.

Shapes: N rows, K classes, T thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.events import Event

TIOU: tuple[float, ...] = tuple(n / 10 for n in range(1, 10))
DUPLICATE_S = 1e-3  # true events of a class whose ends are so near are one
THRESHOLD_SLACK = 1e-12  # an overlap of exactly 0.7 must pass 0.7, however 0.7 was computed

Events = Mapping[str, Sequence[Event]]
OtherVideos = Literal["wrong", "drop"]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the evaluation found.

    Attributes:
        tiou: Thresholds.
        classes: Classes with true events, sorted by name.
        precision: (K, T) average precision of each class at each threshold.
        events: (K,) true events of each class, duplicates removed.
        other_videos: Predictions for videos that have no place in the ground truth.
        other_classes: Predictions of classes without true events; dropped.
    """

    tiou: tuple[float, ...]
    classes: tuple[str, ...]
    precision: NDArray[np.float64]
    events: NDArray[np.int64]
    other_videos: int
    other_classes: int

    @property
    def by_tiou(self) -> NDArray[np.float64]:
        """(T,) mAP at each threshold."""
        mean: NDArray[np.float64] = self.precision.mean(axis=0)
        return mean

    @property
    def average(self) -> float:
        """Mean of `by_tiou`."""
        return float(self.by_tiou.mean())

    def at(self, tiou: float) -> float:
        """The mAP at one of the thresholds.

        Raises:
            ValueError: It is none of them.
        """
        near = np.flatnonzero(np.isclose(self.tiou, tiou, rtol=0, atol=1e-9))
        if not len(near):
            measured = ", ".join(f"{level:g}" for level in self.tiou)
            raise ValueError(f"no mAP at tIoU {tiou:g}: measured were {measured}")
        return float(self.by_tiou[near[0]])


def mean_average_precision(
    truth: Events,
    predictions: Events,
    *,
    tiou: Sequence[float] = TIOU,
    other_videos: OtherVideos = "wrong",
) -> Scores:
    """Average precision of every class at every threshold.

    Args:
        truth: True events of every video of the split; a video without any has an empty list.
        predictions: Detected events by video.
        tiou: Thresholds of the temporal IoU.
        other_videos: What predictions for a video outside ``truth`` are: ``wrong``, as in public
            evaluators, or left out (``drop``).

    Raises:
        ValueError: There is no true event.
    """
    found = _match(truth, predictions, tiou=tiou, other_videos=other_videos)
    count = len(found.classes)
    bounds = np.searchsorted(found.predictions.labels, np.arange(count + 1))
    events = np.bincount(found.truth.labels, minlength=count)
    precision = np.stack(
        [
            interpolated_precision(found.hits[bounds[k] : bounds[k + 1]], int(events[k]))
            for k in range(count)
        ]
    )
    return Scores(
        tuple(tiou),
        found.classes,
        precision,
        events.astype(np.int64),
        found.other_videos,
        found.other_classes,
    )


def best_threshold(truth: Events, predictions: Events, *, tiou: float = 0.5) -> tuple[float, float]:
    """The score from which on to report events, and the F1 that it gives at one threshold.

    Matching goes by falling score, so leaving out weak predictions never changes the others.

    Returns:
        Score and F1, both 0 where nothing is found.
    """
    found = _match(truth, predictions, tiou=(tiou,), other_videos="wrong")
    if not found.hits.any():
        return 0.0, 0.0
    order = np.argsort(-found.predictions.scores, kind="stable")
    scores = found.predictions.scores[order]
    hits = np.cumsum(found.hits[order, 0])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + len(found.truth))
    last_of_score = np.append(scores[1:] != scores[:-1], [True])
    best = int(np.argmax(np.where(last_of_score, f1, -1.0)))
    return float(scores[best]), float(f1[best])


def whole_video_baseline(
    durations: Mapping[str, float], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, list[Event]]:
    """Answer every question with the whole video: what knowing the class alone is worth.

    Args:
        durations: Seconds of each video.
        scores: Score of each class in each video; classes that are left out get no event.
    """
    return {
        video: [
            Event(0.0, duration, label, score) for label, score in scores.get(video, {}).items()
        ]
        for video, duration in durations.items()
    }


@dataclass(frozen=True, slots=True)
class _Table:
    """Events of many videos, column by column; classes and videos as numbers.

    Numbers of videos follow their names, so that they order like these.
    """

    videos: NDArray[np.int64]
    segments: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[Any]) -> _Table:
        return _Table(self.videos[rows], self.segments[rows], self.labels[rows], self.scores[rows])


@dataclass(frozen=True, slots=True)
class _Matches:
    """Predictions of known classes by class, falling score, video, start, end; what they hit."""

    classes: tuple[str, ...]
    predictions: _Table
    truth: _Table
    hits: NDArray[np.bool_]  # (N, T)
    other_videos: int
    other_classes: int


def _match(
    truth: Events, predictions: Events, *, tiou: Sequence[float], other_videos: OtherVideos
) -> _Matches:
    """Decide for each prediction and threshold whether it takes a true event."""
    classes = tuple(sorted({event.label for events in truth.values() for event in events}))
    if not classes:
        raise ValueError("no event to find: the ground truth is empty")
    videos = {name: index for index, name in enumerate(sorted({*truth, *predictions}))}
    outside = sum(len(events) for video, events in predictions.items() if video not in truth)
    if other_videos == "drop":
        predictions = {video: rows for video, rows in predictions.items() if video in truth}
    labels = {name: index for index, name in enumerate(classes)}
    answer = _without_duplicates(_table(truth, videos, labels))
    table = _table(predictions, videos, labels)
    known = table[table.labels >= 0]
    keys = (known.segments[:, 1], known.segments[:, 0], known.videos, -known.scores, known.labels)
    known = known[np.lexsort(keys)]
    hits = _take(answer, known, np.asarray(tiou, np.float64) - THRESHOLD_SLACK)
    return _Matches(classes, known, answer, hits, outside, len(table) - len(known))


def _table(events: Events, videos: Mapping[str, int], labels: Mapping[str, int]) -> _Table:
    """Columns of numbers; a class that is not in ``labels`` has number -1."""
    rows = [
        (videos[video], event.start, event.end, labels.get(event.label, -1), event.score)
        for video, listed in events.items()
        for event in listed
    ]
    columns = np.array(rows, np.float64).reshape(-1, 5)
    return _Table(
        columns[:, 0].astype(np.int64),
        columns[:, 1:3],
        columns[:, 3].astype(np.int64),
        columns[:, 4],
    )


def _without_duplicates(truth: _Table) -> _Table:
    """True events in a fixed order, one of each set with the same class, start and end."""
    keys = (truth.segments[:, 1], truth.segments[:, 0], truth.videos, truth.labels)
    truth = truth[np.lexsort(keys)]
    keep = np.ones(len(truth), np.bool_)
    for row in range(1, len(truth)):
        for earlier in range(row - 1, -1, -1):
            if not _near(truth, earlier, row):
                break
            ends = truth.segments[[earlier, row], 1]
            if keep[earlier] and abs(ends[0] - ends[1]) <= DUPLICATE_S:
                keep[row] = False
                break
    return truth[keep]


def _near(truth: _Table, earlier: int, row: int) -> bool:
    """Whether two rows are of one class and video and start together."""
    return bool(
        truth.labels[earlier] == truth.labels[row]
        and truth.videos[earlier] == truth.videos[row]
        and truth.segments[row, 0] - truth.segments[earlier, 0] <= DUPLICATE_S
    )


def interval_iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of (..., 2) intervals, broadcast against each other; 0 where both are empty."""
    overlap = np.minimum(one[..., 1], other[..., 1]) - np.maximum(one[..., 0], other[..., 0])
    overlap = np.maximum(overlap, 0)
    union = (one[..., 1] - one[..., 0]) + (other[..., 1] - other[..., 0]) - overlap
    iou: NDArray[np.float64] = overlap / np.where(union > 0, union, 1.0)
    return iou


def interpolated_precision(hits: NDArray[np.bool_], events: int) -> NDArray[np.float64]:
    """(N, T) hits by falling score and the number of true events in, (T,) average precision out."""
    if len(hits) == 0:
        return np.zeros(hits.shape[1])
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    # Precision at a recall is the best one at that recall or any larger one.
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    area: NDArray[np.float64] = (best * hits).sum(axis=0) / events
    return area


def _take(truth: _Table, predictions: _Table, tiou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Greedy matching, in rounds: in round r, the r-th prediction of every (class, video) at once.

    Pairs of class and video do not influence each other, nor do thresholds.
    """
    hits = np.zeros((len(predictions), len(tiou)), np.bool_)
    group, rows = _groups(truth, predictions)
    candidates = np.flatnonzero(group >= 0)
    candidates = candidates[np.argsort(group[candidates], kind="stable")]
    ordered = group[candidates]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, side="left")
    free = np.repeat((rows >= 0)[:, :, None], len(tiou), axis=2)  # (groups, events, T)
    by_rank = np.argsort(rank, kind="stable")
    bounds = np.searchsorted(rank[by_rank], np.arange(rank.max(initial=-1) + 2))
    for first, last in pairwise(bounds):
        chosen = candidates[by_rank[first:last]]
        places = group[chosen]
        iou = interval_iou(predictions.segments[chosen, None], truth.segments[rows[places]])
        open_ = free[places] & (iou[:, :, None] >= tiou)
        value = np.where(open_, iou[:, :, None], -1.0)
        # The last of equal overlaps, as the public evaluators do on a reversed sort.
        best = value.shape[1] - 1 - np.argmax(value[:, ::-1], axis=1)  # (chosen, T)
        hit = open_.any(axis=1)
        hits[chosen] = hit
        index, threshold = np.nonzero(hit)
        free[places[index], best[index, threshold], threshold] = False
    return hits


def _groups(truth: _Table, predictions: _Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which (class, video) with true events each prediction belongs to, and the rows of those.

    Returns:
        (N,) number of the group, -1 for none; (groups, E) rows of ``truth``, -1 as filling.
    """
    videos = 1 + max(truth.videos.max(), predictions.videos.max(initial=0))
    keys, place, counts = np.unique(
        truth.labels * videos + truth.videos, return_inverse=True, return_counts=True
    )
    rows = np.full((len(keys), counts.max()), -1, np.int64)
    order = np.argsort(place, kind="stable")
    column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[place[order], column] = order
    wanted = predictions.labels * videos + predictions.videos
    group = np.searchsorted(keys, wanted)
    there = keys[np.minimum(group, len(keys) - 1)] == wanted
    return np.where(there, group, -1), rows
