"""Segments for videos that have only labels: a weak model's events stand in for annotations.

What semi-weak training learns from: the few videos whose segments are known, and for all others
the events that a model trained on labels alone finds in them, of classes that the video is known
to have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from pipeline.core.events import Event
from workflows.annotations import VideoLabels

Find = Callable[[str], list[Event]]


def strong_ids(videos: Mapping[str, VideoLabels], *, fraction: float, seed: int) -> set[str]:
    """The videos whose segments are taken as known: a share of them, the same for a seed.

    A random order of all videos is cut off where the share ends, so a larger share with the same
    seed contains a smaller one. In front stand those that show every class once: each time the
    video with most classes that none before it has.

    Args:
        videos: By id; only their classes are read.
        fraction: Share in [0, 1]; rounded to whole videos, to one at least where it is not 0.
        seed: Decides which.
    """
    order = sorted(videos)
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    count = max(round(fraction * len(order)), min(len(order), math.ceil(fraction)))
    open_classes = {label for video in videos.values() for label in video.classes}
    first: dict[str, None] = {}
    while open_classes and len(first) < count:
        best = max(order, key=lambda id: len(open_classes.intersection(videos[id].classes)))
        first[best] = None
        open_classes.difference_update(videos[best].classes)
    return set(list(dict.fromkeys([*first, *order]))[:count])


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
