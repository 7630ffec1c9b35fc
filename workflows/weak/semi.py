"""Semi-weak training: LoCo on the segments of a few videos and on a weak model's events elsewhere.

What it was trained on lies in the run's folder as ``semi_weak.json``: an annotation file of the
training videos, with the names of those whose segments were read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from extractors.storage.store import FeatureStore
from model.build import Network
from model.checkpoint import load_network
from model.clasp import CLASP
from pipeline.config import load_recipe
from pipeline.core.atomic import write_json
from pipeline.core.errors import CheckpointError, ConfigError
from pipeline.core.events import Event
from pipeline.recipe import Recipe
from workflows.annotations import Annotations, VideoLabels
from workflows.detection.predict import predictor_of
from workflows.weak.dataset import WeakDataset
from workflows.weak.predict import WeakPredictor
from workflows.weak.pseudo_labels import Answer, Find, pseudo_label

FILE = "semi_weak.json"
TEACHER = "teacher"  # folder of a teacher that is trained here
SHARED = ("embed", "unimodal")  # parts that CLASP and LoCo have alike
SIZES = ("channels", "embedding_layers", "unimodal_blocks", "max_seq_len")  # decided by these
ONE_SIZE = f"give both the same model.{', '.join(SIZES)}, or set semi_weak.warm_start=false"


def teacher_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of a teacher that is to be trained first; None where none is.

    It learns from the same data with the same seed, in the folder ``teacher`` of the run. There is
    none where a checkpoint is given, or weak videos are left out.

    Raises:
        ConfigError: The recipe is wrong, is not that of a weak model, or is that of one with whose
            parts the student cannot start.
    """
    if not recipe.semi_weak.weak_videos:
        return None
    (path,) = recipe.semi_weak.teacher
    if path.suffix == ".safetensors":
        return None
    teacher = load_recipe(path)
    if teacher.model.method != "clasp":
        raise ConfigError(
            f"semi_weak.teacher {path} trains {teacher.model.method!r}, which needs all segments",
            hint="name a recipe with model.method: clasp",
        )
    unlike = [name for name in SIZES if getattr(teacher.model, name) != getattr(recipe.model, name)]
    if unlike and recipe.semi_weak.warm_start:
        raise ConfigError(
            f"semi_weak.warm_start: the teacher {path} has another model.{', '.join(unlike)}",
            hint=ONE_SIZE,
        )
    return replace(
        teacher,
        data=recipe.data,
        backbone=recipe.backbone,
        train=replace(teacher.train, seed=recipe.train.seed),
        output=replace(recipe.output, folder=recipe.output.folder / TEACHER),
        source=recipe.source,  # the command that trains it is that of the student
        overrides=recipe.overrides,
    )


def teacher_checkpoints(recipe: Recipe) -> list[Path]:
    """Where the teacher's weights are, or will be; none where no teacher is asked."""
    if not recipe.semi_weak.weak_videos:
        return []
    (path,) = recipe.semi_weak.teacher
    if path.suffix == ".safetensors":
        return [path]
    return [recipe.output.folder / TEACHER / "best.safetensors"]


def semi_weak_labels(
    recipe: Recipe,
    labels: Annotations,
    store: FeatureStore,
    data: WeakDataset,
    strong: Mapping[str, VideoLabels],
    *,
    device: torch.device,
) -> Annotations:
    """Labels for LoCo: true segments of the strong videos, the teacher's events of all others.

    A video in which the teacher finds none of its classes is left out: to LoCo it would say that
    nothing happens. One that has no classes says so rightly, and stays. What is found is kept in
    the run's folder and found again only when what decides it has changed.

    Args:
        recipe: Whose ``semi_weak`` says how.
        labels: Classes of the videos, from `workflows.weak.video_labels.load_video_labels`.
        store: The features.
        data: The training videos of which there are features.
        strong: The strong ones, from `workflows.weak.strong.strong_videos`.
        device: Where the teacher runs.

    Raises:
        ConfigError: There is no event to learn from.
        CheckpointError: The teacher cannot be read, is no weak model, or knows other classes.
    """
    wanted = recipe.semi_weak
    known = data.ids if wanted.weak_videos else sorted(strong)
    weak = {id: data.videos[id] for id in known if id not in strong}
    mark = _mark(recipe, store, data, sorted(strong))
    found = _kept(recipe, weak, mark)
    if not weak:
        found = {}
    elif found is None:
        found = pseudo_label(
            weak,
            _finder(recipe, labels, data, device),
            min_score=wanted.min_score,
            targets=wanted.event_targets,
            ignore=wanted.ignore,
        )
    videos = {id: strong[id] if id in strong else found[id] for id in known}
    videos = {
        id: video
        for id, video in videos.items()
        if video.events or id in strong or not weak[id].classes
    }
    if not any(video.events for video in videos.values()):
        raise ConfigError(
            "there is no event to learn from: the teacher found none in any training video",
            hint="train it longer, or let semi_weak.strong_fraction give some videos segments",
        )
    path = recipe.output.folder / FILE
    write_json(
        path,
        {
            "version": "training videos of a semi-weak run; segments of all but the strong videos "
            "were found by the teacher",
            "mark": mark,
            "strong_by": wanted.strong,
            "strong_fraction": wanted.strong_fraction,
            "seed": recipe.train.seed,
            "strong": sorted(strong),
            "database": {id: _entry(video) for id, video in videos.items()},
        },
    )
    return replace(labels, videos=videos, notes=(*labels.notes, _note(videos, strong, path)))


def _note(videos: Mapping[str, VideoLabels], strong: Mapping[str, VideoLabels], path: Path) -> str:
    """One sentence on what is learned from."""
    true_events = sum(len(video.events) for video in strong.values())
    found = [video.events for id, video in videos.items() if id not in strong]
    said = (
        f"semi-weak: {true_events} annotated events of {len(strong)} videos, "
        f"{sum(map(len, found))} events of the teacher in {sum(map(bool, found))} others"
    )
    if empty := sum(not events for events in found):
        said += f", {empty} more without any label, in which nothing happens"
    return f"{said}; {path} has them"


def start_from_teacher(model: Network, recipe: Recipe) -> None:
    """Give a fresh model the parts that it shares with its teacher, where the recipe asks for it.

    Raises:
        ConfigError: The two are of different sizes.
        CheckpointError: The teacher cannot be read.
    """
    if not recipe.semi_weak.warm_start:
        return
    for path in teacher_checkpoints(recipe):
        teacher, _ = load_network(path)
        for name in SHARED:
            try:
                model.get_submodule(name).load_state_dict(teacher.get_submodule(name).state_dict())
            except RuntimeError as error:
                raise ConfigError(
                    f"semi_weak.warm_start: {name!r} of the teacher {path} is of another size",
                    hint=ONE_SIZE,
                ) from error


def _finder(recipe: Recipe, labels: Annotations, data: WeakDataset, device: torch.device) -> Find:
    """The teacher as a function from a video's id to its events and activation.

    Events come each once; where their scores are targets, all candidates do.
    """
    (path,) = teacher_checkpoints(recipe)
    model, card = load_network(path)
    if not isinstance(model, CLASP):
        raise CheckpointError(
            f"semi_weak.teacher {path} holds a model of method {card.method!r}, which has seen "
            "segments",
            hint="name a checkpoint of method clasp",
        )
    card.check_classes(labels.classes)
    predict = predictor_of(model.to(device), card)
    assert isinstance(predict, WeakPredictor)

    def find(id: str) -> Answer:
        features = data.features(id)
        scan = predict.scanned(features)
        listed = scan.candidates if recipe.semi_weak.event_targets == "soft" else scan.events
        events = listed(features.grid, features.summary.duration)
        activation = scan.activation.activation.float().numpy()
        return Answer(events, dict(zip(card.classes, activation.T, strict=True)), features.grid)

    return find


def _mark(recipe: Recipe, store: FeatureStore, data: WeakDataset, strong: list[str]) -> str:
    """Hash of all that decides what the teacher is asked and what it answers."""
    teacher = ""
    for path in teacher_checkpoints(recipe):
        with path.open("rb") as handle:
            teacher = hashlib.file_digest(handle, "sha256").hexdigest()
    wanted = recipe.semi_weak
    settings = [wanted.min_score, wanted.event_targets, wanted.ignore, wanted.weak_videos]
    classes = [data.videos[id].classes for id in data.ids]
    features = [store.record(id).sha256 for id in data.stored_ids]
    value = [teacher, settings, strong, data.ids, classes, features]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _kept(
    recipe: Recipe, weak: Mapping[str, VideoLabels], mark: str
) -> dict[str, VideoLabels] | None:
    """What an earlier call found; None where it was something else, or the file is damaged."""
    try:
        value = json.loads((recipe.output.folder / FILE).read_text("utf-8"))
        if value["mark"] != mark:
            return None
        entries = {id: value["database"].get(id, {}) for id in weak}
        return {id: _video(video, entries[id]) for id, video in weak.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _video(video: VideoLabels, entry: dict[str, Any]) -> VideoLabels:
    events, unsure = (
        tuple(
            Event(row["segment"][0], row["segment"][1], row["label"], row["score"])
            for row in entry.get(name, [])
        )
        for name in ("annotations", "unsure")
    )
    return replace(video, events=events, only_classes=(), unsure=unsure)


def _entry(video: VideoLabels) -> dict[str, Any]:
    return {
        "duration": video.duration,
        "subset": video.subset,
        "annotations": [_row(event) for event in video.events],
        "unsure": [_row(event) for event in video.unsure],
    }


def _row(event: Event) -> dict[str, Any]:
    return {"segment": [event.start, event.end], "label": event.label, "score": event.score}
