"""Segments for videos that have only labels: a weak model's events stand in for annotations.

What semi-weak training learns from: the few videos whose segments are known, and for all others
the events that a model trained on labels alone finds in them, of classes that the video is known
to have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pipeline.core.events import Event
from workflows.annotations import VideoLabels

Find = Callable[[str], list[Event]]


def strong_ids(ids: Iterable[str], *, fraction: float, seed: int) -> set[str]:
    """The videos whose segments are taken as known: a random share of them, the same for a seed.

    A larger fraction with the same seed contains a smaller one.

    Args:
        ids: All videos.
        fraction: Share in [0, 1]; rounded to whole videos.
        seed: Decides which.
    """
    order = sorted(ids)
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    return set(order[: round(fraction * len(order))])


def pseudo_label(
    videos: Mapping[str, VideoLabels], find: Find, *, min_score: float
) -> dict[str, VideoLabels]:
    """Videos with a weak model's events in place of their annotated ones.

    An event counts where its class is among those of the video. A class of the video for which no
    event is strong enough gets the model's best one; if there is none at all, it stays without.

    Args:
        videos: The labelled videos; only their classes are read.
        find: Events of a video by id, best first, each event once.
        min_score: Weaker events are left out.
    """
    found = {}
    for id, video in videos.items():
        events = find(id)
        kept: list[Event] = []
        for label in video.classes:
            own = [event for event in events if event.label == label]
            kept += [event for event in own if event.score >= min_score] or own[:1]
        certain = sorted(replace(event, score=1.0) for event in kept)
        found[id] = replace(video, events=tuple(certain), only_classes=())
    return found
