"""Strong videos: the few of a semi-weak training whose segments are read."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping

from extractors.storage.store import FeatureStore
from pipeline.core.errors import ConfigError
from pipeline.recipe import Recipe
from workflows.annotations import Annotations, VideoLabels, inspect_annotations, refuse_rows
from workflows.stage_data import bad_rows
from workflows.training.dataset import SplitDataset
from workflows.weak.dataset import WeakDataset


def strong_videos(
    recipe: Recipe, labels: Annotations, store: FeatureStore, data: WeakDataset
) -> dict[str, VideoLabels]:
    """The strong videos with their segments; those of no other video decide anything.

    Args:
        recipe: Whose ``semi_weak`` says how they are chosen.
        labels: Classes of the videos, from `workflows.weak.video_labels.load_video_labels`.
        store: The features.
        data: The training videos of which there are features.

    Raises:
        ConfigError: The labels are a plain list although segments are asked for; a segment of a
            strong video is missing or impossible; no video has segments.
    """
    wanted = recipe.semi_weak
    if wanted.strong_fraction == 0:
        return {}
    if labels.path.suffix.lower() == ".csv":
        raise ConfigError(
            f"semi_weak.strong={wanted.strong} with semi_weak.strong_fraction="
            f"{wanted.strong_fraction:g} reads segments, but {labels.path} has no segments",
            hint="set semi_weak.strong_fraction=0, or name an annotation file with segments",
        )
    known = _annotated(labels, data) if wanted.strong == "annotated" else None
    chosen = strong_ids(
        data.videos, fraction=wanted.strong_fraction, seed=recipe.train.seed, among=known
    )
    strong = _with_segments(recipe, labels, chosen)
    if strong:  # refuses events that start after what was extracted of their video
        SplitDataset(store, strong, labels.classes, bad_rows=bad_rows(recipe))
    return strong


def strong_ids(
    videos: Mapping[str, VideoLabels],
    *,
    fraction: float,
    seed: int,
    among: Collection[str] | None = None,
) -> set[str]:
    """The videos whose segments are taken as known: a share of all, the same for a seed.

    A random order is cut off where the share ends, so a larger share with the same seed contains a
    smaller one. In front stand those that show every class once: each time the video with most
    classes that none before it has.

    Args:
        videos: By id; only their classes are read.
        fraction: Share in [0, 1]; rounded to whole videos, to one at least where it is not 0.
        seed: Decides which.
        among: Ids to choose from, fewer than the share where there are no more; None for all.
    """
    order = sorted(videos if among is None else among)
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    count = max(round(fraction * len(videos)), min(len(videos), math.ceil(fraction)))
    open_classes = {label for id in order for label in videos[id].classes}
    first: dict[str, None] = {}
    while open_classes and len(first) < count:
        best = max(order, key=lambda id: len(open_classes.intersection(videos[id].classes)))
        first[best] = None
        open_classes.difference_update(videos[best].classes)
    return set(list(dict.fromkeys([*first, *order]))[:count])


def _annotated(labels: Annotations, data: WeakDataset) -> list[str]:
    """The videos that have events, each row of which has a segment that can be.

    Raises:
        ConfigError: There is none.
    """
    found = inspect_annotations(labels.path, segments=data.videos.keys())
    videos = found.annotations.videos
    known = [id for id in data.ids if id not in found.spoilt and videos[id].events]
    if not known:
        raise ConfigError(
            f"semi_weak.strong=annotated, but {labels.path} has no training video with a segment "
            "in each of its rows",
            hint="set semi_weak.strong_fraction=0 to learn from the teacher's events alone",
        )
    return known


def _with_segments(recipe: Recipe, labels: Annotations, chosen: set[str]) -> dict[str, VideoLabels]:
    """The chosen videos with their segments.

    Where impossible rows are left out, a video of which no event remains is no strong one: it would
    say that nothing happens.

    Raises:
        ConfigError: Rows are impossible, and are not to be left out.
    """
    found = inspect_annotations(labels.path, segments=chosen)
    if found.problems and bad_rows(recipe) == "error":
        raise refuse_rows(
            labels.path,
            found.problems,
            hint="choose among the videos that have segments with semi_weak.strong=annotated, or "
            "correct the file",
        )
    videos = {id: found.annotations.videos[id] for id in sorted(chosen)}
    return {id: video for id, video in videos.items() if video.events or id not in found.spoilt}
