"""Segments for videos that have only labels: a weak model's events stand in for annotations.

What semi-weak training learns from: the few videos whose segments are known, and for all others
the events that a model trained on labels alone finds in them, of classes that the video is known
to have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from extractors.windows import WindowGrid
from pipeline.core.events import Event
from workflows.annotations import VideoLabels

LEAST_SCORE = 1e-3  # an event is a target above 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a weak model says of one video.

    Attributes:
        events: Best first.
        activation: Of each class that it knows, (T,): probability at every step.
        grid: Where the steps lie.
    """

    events: Sequence[Event]
    activation: Mapping[str, NDArray[np.floating]]
    grid: WindowGrid


Find = Callable[[str], Answer]


def pseudo_label(
    videos: Mapping[str, VideoLabels],
    find: Find,
    *,
    min_score: float,
    targets: str = "hard",
    ignore: Sequence[float] = (),
) -> dict[str, VideoLabels]:
    """Videos with a weak model's events in place of their annotated ones.

    An event counts where its class is among those of the video; its score is kept, at most 1. A
    class of the video for which no event is strong enough gets the model's best one; if there is
    none at all, it stays without. Of a video without classes the model is not asked.

    Args:
        videos: The labelled videos; only their classes are read.
        find: What the model says of a video by id.
        min_score: Weaker events are left out.
        targets: See `model.doubt.Doubt`; other than ``hard``, events come in rising order of score.
        ignore: None, or two shares; see `unsure_stretches`.
    """
    found = {}
    for id, video in videos.items():
        if not video.classes:
            found[id] = replace(video, events=())
            continue
        said = find(id)
        kept: list[Event] = []
        for label in video.classes:
            own = [event for event in said.events if event.label == label]
            kept += [event for event in own if event.score >= min_score] or own[:1]
        kept = sorted(
            replace(event, score=min(1.0, max(LEAST_SCORE, event.score))) for event in kept
        )
        if targets != "hard":
            kept.sort(key=lambda event: event.score)
        unsure: list[Event] = []
        if ignore:
            low, high = ignore
            for label in video.classes:
                own = [event for event in kept if event.label == label]
                unsure += unsure_stretches(label, own, said, low=low, high=high)
        found[id] = replace(video, events=tuple(kept), only_classes=(), unsure=tuple(unsure))
    return found


def unsure_stretches(
    label: str, events: Sequence[Event], said: Answer, *, low: float, high: float
) -> list[Event]:
    """Stretches of a video that are neither surely inside nor surely outside of a class's events.

    Args:
        label: The class.
        events: Of this class, as they are learned from.
        said: What the model says of the video.
        low: Steps outside of events are unsure where the activation is not below this.
        high: Steps inside are where it is.
    """
    activation = np.asarray(said.activation[label], dtype=np.float64)
    times = said.grid.centres(len(activation))
    inside = np.zeros(len(times), dtype=bool)
    for event in events:
        inside |= (event.start <= times) & (times <= event.end)
    unsure = np.where(inside, activation < high, activation >= low)
    borders = np.flatnonzero(np.diff(unsure.astype(np.int8), prepend=0, append=0)) - 0.5
    ends = np.maximum(said.grid.to_seconds(borders), 0.0).reshape(-1, 2)
    return [Event(float(start), float(end), label, 1.0) for start, end in ends]
