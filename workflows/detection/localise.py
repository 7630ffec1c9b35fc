"""From activation on a grid to events in seconds, for every detector that has activation.

Shapes: T steps, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from extractors.windows import WindowGrid
from model.activation import AnyFloats, Recipe, Segments, segments_from_activation
from model.decoding import DecodingSettings, piece_starts
from pipeline.core.events import Event


def candidate_events(
    activation: AnyFloats,
    recipe: Recipe,
    labels: Sequence[str],
    grid: WindowGrid,
    *,
    duration: float,
    video_scores: AnyFloats | None = None,
    min_score: float = 0.0,
    most: int | None = None,
) -> list[Event]:
    """Candidates of one video, best first; one event may be among them at several lengths.

    Args:
        activation: (T, K), smoothed, zero where picture or sound is not there.
        recipe: From activation to segments.
        labels: Name of each class.
        grid: Where the steps lie.
        duration: Seconds; events end there at the latest.
        video_scores: (K,); needed where the recipe uses them.
        min_score: Weaker candidates are left out.
        most: How many are kept; None for all. See `most_kept`.
    """
    segments = segments_from_activation(activation, recipe, video_scores=video_scores)
    events = segment_events(
        segments, labels, grid, steps=len(activation), duration=duration, min_score=min_score
    )
    return list(islice(events, most))


def most_kept(steps: int, per_piece: int, pieces: DecodingSettings) -> int:
    """How many candidates are kept of a video: so many for each piece that it is cut into.

    A limit of a benchmark of short videos would lose most events of a long one.

    Args:
        steps: T of the video.
        per_piece: Limit of a video in one piece.
        pieces: How long ones are cut.
    """
    return per_piece * len(piece_starts(steps, pieces))


def segment_events(
    segments: Segments,
    labels: Sequence[str],
    grid: WindowGrid,
    *,
    steps: int,
    duration: float,
    min_score: float,
) -> Iterator[Event]:
    """Segments as events. The first and the last step reach to the ends of the video.

    Args:
        segments: On the grid, best first.
        labels: Name of each class.
        grid: Where the steps lie.
        steps: T of the video.
        duration: Seconds; events end there at the latest.
        min_score: Weaker segments are left out.
    """
    starts = np.where(segments.starts < 0, 0.0, grid.to_seconds(segments.starts))
    ends = np.where(segments.ends > steps - 1, duration, grid.to_seconds(segments.ends))
    for start, end, index, score in zip(
        starts, ends, segments.classes, segments.scores, strict=True
    ):
        start, end = min(float(start), duration), min(float(end), duration)
        if score >= min_score and start < end:
            yield Event(start, end, labels[index], float(score))


def once(events: Iterable[Event]) -> list[Event]:
    """Events, best first, without those that lie mostly inside a better one of their class.

    The recipe proposes each run at several thresholds, so one bark can be there as a short event
    within a long one; Soft-NMS keeps both, as ranking measures want. People want it once.
    """
    kept: list[Event] = []
    for event in sorted(events, key=lambda event: (-event.score, event.start)):
        if not any(
            event.label == better.label
            and 2 * (min(event.end, better.end) - max(event.start, better.start)) > event.duration
            for better in kept
        ):
            kept.append(event)
    return kept
