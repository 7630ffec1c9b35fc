"""What the stages of a recipe read: labels, features and the two together."""

from __future__ import annotations

from typing import TypeVar

from extractors.registry import expected_digest
from extractors.storage.store import FeatureStore
from pipeline.core.errors import ConfigError, StoreError
from pipeline.recipe import Recipe
from workflows.annotations import Annotations, BadRows, load_annotations, load_truth
from workflows.training.dataset import SplitDataset
from workflows.weak.video_labels import load_video_labels

Split = TypeVar("Split", bound=SplitDataset)


def is_weak(recipe: Recipe) -> bool:
    """Whether training reads the classes of whole videos alone."""
    return recipe.model.method == "clasp"


def few_segments(recipe: Recipe) -> bool:
    """Whether only some of the training videos have segments that are read."""
    wanted = recipe.semi_weak
    return wanted.strong_fraction < 1 or wanted.strong == "annotated"


def is_semi_weak(recipe: Recipe) -> bool:
    """Whether a weak model's events stand in for some of the segments, or these are left out."""
    wanted = recipe.semi_weak
    return few_segments(recipe) and (bool(wanted.teacher) or not wanted.weak_videos)


def hears_teacher(recipe: Recipe) -> bool:
    """Whether a weak model's events stand in for segments that are not read."""
    return few_segments(recipe) and recipe.semi_weak.weak_videos


def is_plain_list(recipe: Recipe) -> bool:
    """Whether the labels are a CSV of videos, without segments and subsets."""
    return recipe.data.annotations.suffix.lower() == ".csv"


def load_labels(recipe: Recipe, *, weak: bool) -> Annotations:
    """The recipe's labels.

    Args:
        recipe: Names the file.
        weak: Look at no segment.

    Raises:
        ConfigError: The file cannot be used.
    """
    load = load_video_labels if weak else load_annotations
    return load(recipe.data.annotations, bad_rows=bad_rows(recipe))


def check_labels(recipe: Recipe, stage: str) -> None:
    """Say what is wrong with the labels before the first hour of work.

    Args:
        recipe: Names the file.
        stage: What is to be done: ``train``, ``eval`` or ``all``.

    Raises:
        ConfigError: The file cannot be used, or lacks a subset that a stage needs.
    """
    if stage in ("train", "all"):
        weak = is_weak(recipe) or is_semi_weak(recipe)
        load_labels(recipe, weak=weak).subset(recipe.data.train)
    if stage in ("eval", "all") and recipe.data.test and not is_plain_list(recipe):
        load_test_labels(recipe)


def load_test_labels(recipe: Recipe) -> Annotations:
    """The recipe's labels with the segments of its test videos; no other segment is looked at.

    Raises:
        ConfigError: The file cannot be used, or has no test video.
    """
    return load_truth(recipe.data.annotations, subset=recipe.data.test, bad_rows=bad_rows(recipe))


def open_features(recipe: Recipe) -> FeatureStore:
    """The recipe's features.

    Raises:
        StoreError: They are of another backbone, or missing.
    """
    if recipe.data.videos and not (recipe.data.features / "store.json").exists():
        raise StoreError(
            f"{recipe.data.features} holds no feature store",
            hint="run the extract stage first; --stage all runs all stages in their order",
        )
    made_by = FeatureStore.open(recipe.data.features).spec
    digest = expected_digest(recipe.backbone.name, made_by)
    return FeatureStore.open(recipe.data.features, digest=digest)


def plain_split(
    recipe: Recipe, labels: Annotations, store: FeatureStore, subset: str
) -> SplitDataset:
    """A subset's videos with their events."""
    return SplitDataset(
        store,
        labels.subset(subset),
        labels.classes,
        modalities=recipe.data.modalities,
        bad_rows=bad_rows(recipe),
        cache_bytes=int(recipe.train.cache_gb * 1e9),
        event_targets=recipe.semi_weak.event_targets if hears_teacher(recipe) else "hard",
    )


def complete(recipe: Recipe, data: Split) -> Split:
    """A split of which every video has features, where the recipe insists on it.

    Raises:
        ConfigError: A video has none.
    """
    if data.missing and recipe.data.missing == "error":
        raise ConfigError(
            data.describe_missing(),
            hint="run the extract stage, or set data.missing=skip",
        )
    return data


def bad_rows(recipe: Recipe) -> BadRows:
    """What happens to impossible annotations."""
    return "drop" if recipe.data.bad_rows == "drop" else "error"


def describe_training(recipe: Recipe, data: SplitDataset) -> str:
    """One sentence on what there is to learn from."""
    if is_weak(recipe):
        labels = sum(len(video.classes) for video in data.videos.values())
        return f"training on {len(data)} videos with {labels} labels; no segment is read"
    events = sum(len(video.events) for video in data.videos.values())
    text = f"training on {len(data)} videos with {events} events"
    lost = data.unreachable(recipe.model.levels)
    if lost:
        text += f"; {lost} are too short for any point of the pyramid to answer for them"
    return text


def training_notes(labels: Annotations, data: SplitDataset) -> list[str]:
    """What is doubtful about labels and videos, one line each."""
    said = (*labels.notes, data.describe_missing(), *data.describe_changed())
    return [f"note: {note}" for note in said if note]
