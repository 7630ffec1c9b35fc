"""A benchmark that needs no download: features simulated on real annotations.

When and what happens is real, and so is all that makes the task hard in time: lengths, overlaps,
crowding, classes that come together. Only what the two encoders would have answered is simulated;
docs/simulation.md says how and why.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extractors.features import Summary
from extractors.simulated import MARK_LENGTH, simulated_name, simulated_spec
from extractors.spec import Modality
from extractors.storage.store import FeatureStore
from pipeline.core.atomic import write_json
from pipeline.core.errors import ConfigError
from pipeline.recipe_fields import Limit, at_least, between, limited
from workflows.annotations import Annotations, VideoLabels, load_annotations
from workflows.simulation.video import Bond, Habits, plan_video, video_rows
from workflows.simulation.world import Encoder, make_world

VERSION = 1  # raised whenever the same settings give other features
SUBSETS = ("train", "validation", "test")
ALL = -1  # as a number of videos or classes
BOND_STREAM = 0xB0  # sets apart the random numbers that the modalities share


def _count(default: int, low: int) -> Any:
    rule = Limit(f"at least {low}, or {ALL} for all", lambda value: value >= low or value == ALL)
    return limited(default, rule)


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """Size, difficulty and seed of a simulation.

    Attributes:
        train: Videos of the subset of that name; -1 for all.
        validation: Likewise.
        test: Likewise.
        classes: Classes to keep, those with most training events; videos with an event of another
            are left out.
        vision_dim: Width of picture features.
        audio_dim: Width of sound features.
        noise: Strength of all that has no class, in norms of a class prototype.
        correspondence: Share of the variance of scenes and sources, and of the changes of their
            strength, that picture and sound have in common.
        seed: Decides everything else.
    """

    train: int = _count(ALL, 1)
    validation: int = _count(ALL, 0)
    test: int = _count(ALL, 1)
    classes: int = _count(ALL, 1)
    vision_dim: int = at_least(1536, 2)
    audio_dim: int = at_least(1536, 2)
    noise: float = at_least(1.0, 0)
    correspondence: float = between(0.0, 0, 1)
    seed: int = at_least(0, 0)


@dataclass(frozen=True, slots=True)
class Simulation:
    """A finished simulation.

    Attributes:
        annotations: The reduced annotation file.
        features: The feature store.
        backbone: Name of the features, for ``backbone.name``.
        videos: Number of videos by subset.
        classes: Names of the classes.
    """

    annotations: Path
    features: Path
    backbone: str
    videos: Mapping[str, int]
    classes: tuple[str, ...]

    def describe(self) -> str:
        """One sentence."""
        counts = ", ".join(f"{count} {subset}" for subset, count in self.videos.items())
        return f"{len(self.classes)} classes, videos: {counts}; features {self.backbone}"


def simulate(
    annotations: Path,
    out: Path,
    settings: SimulationSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Simulation:
    """Write a store of simulated features and the annotations that it holds.

    Called again on the same folder, it makes what is missing. Memory is bounded: one video at a
    time. A video has a random state of its own, so that their order does not matter.

    Args:
        annotations: An annotation file with subsets ``train``, ``validation``, ``test``, and a
            duration for every video.
        out: Receives ``features/``, ``annotations.json`` and ``simulation.json``.
        settings: Size, difficulty and seed.
        progress: Takes the number of videos that are there and of all, after each.

    Raises:
        ConfigError: The annotations cannot be read or hold less than the settings ask for.
        StoreError: The folder holds another simulation.
    """
    labels = load_annotations(annotations, bad_rows="drop")
    chosen = choose_videos(labels, settings)
    mark = _mark(annotations, settings)
    name = simulated_name(settings.vision_dim, settings.audio_dim, mark)
    store = FeatureStore.create(out / "features", simulated_spec(name))
    numbers = {label: number for number, label in enumerate(chosen.classes)}
    dims: dict[Modality, int] = {"vision": settings.vision_dim, "audio": settings.audio_dim}
    world: dict[Modality, Encoder] | None = None
    habits = _habits(chosen, numbers)
    for done, (id, video) in enumerate(chosen.videos.items(), start=1):
        if id not in store:
            world = world or make_world(chosen.classes, dims, seed=settings.seed)
            _add_video(store, id, video, numbers, habits, world, settings)
        progress(done, len(chosen.videos))
    store.pack()
    write_json(out / "annotations.json", reduced_json(annotations, chosen), indent=None)
    counts = Counter(video.subset for video in chosen.videos.values())
    result = Simulation(
        out / "annotations.json",
        out / "features",
        name,
        {subset: counts[subset] for subset in SUBSETS},
        chosen.classes,
    )
    write_json(
        out / "simulation.json",
        {"version": VERSION, "backbone": name, "settings": asdict(settings), "videos": counts,
         "classes": list(chosen.classes), "annotations": annotations.name},
    )  # fmt: skip
    return result


def choose_videos(labels: Annotations, settings: SimulationSettings) -> Annotations:
    """The part of an annotation file that a simulation uses.

    The most frequent classes are kept (number of training events, then name) and, in an order that
    depends on the seed and their ids, the first videos of each subset that have no other class.

    Raises:
        ConfigError: There are fewer classes or videos than the settings ask for, or a video has
            no duration.
    """
    frequency: Counter[str] = Counter()
    for video in labels.subset("train").values():
        frequency.update(event.label for event in video.events)
    ranked = sorted(frequency, key=lambda label: (-frequency[label], label))
    kept = set(ranked if settings.classes == ALL else ranked[: settings.classes])
    _enough("classes", settings.classes, len(ranked), labels.path)
    videos: dict[str, VideoLabels] = {}
    for subset in SUBSETS:
        wanted: int = getattr(settings, subset)
        fitting = [
            id
            for id, video in labels.videos.items()
            if video.subset == subset and set(video.classes) <= kept
        ]
        _enough(f"{subset} videos", wanted, len(fitting), labels.path)
        fitting.sort(key=lambda id: hashlib.sha256(f"{settings.seed} {id}".encode()).digest())
        for id in fitting if wanted == ALL else fitting[:wanted]:
            videos[id] = labels.videos[id]
    without = [id for id, video in videos.items() if video.duration is None]
    if without:
        raise ConfigError(
            f"{labels.path}: video {without[0]!r} has no duration, nor have "
            f"{len(without) - 1} others",
            hint="features can only be simulated for videos of known duration",
        )
    classes = tuple(label for label in labels.classes if label in kept)
    return Annotations(labels.path, classes, tuple(range(len(classes))), videos)


def reduced_json(annotations: Path, chosen: Annotations) -> dict[str, Any]:
    """An annotation file of the chosen videos, classes numbered anew."""
    numbers = dict(zip(chosen.classes, chosen.label_ids, strict=True))
    return {
        "version": f"part of {annotations.name}, chosen for simulated features",
        "database": {
            id: {
                "duration": video.duration,
                "subset": video.subset,
                "annotations": [
                    {"segment": [event.start, event.end], "label": event.label,
                     "label_id": numbers[event.label]}
                    for event in video.events
                ],
            }
            for id, video in chosen.videos.items()
        },
    }  # fmt: skip


def _add_video(
    store: FeatureStore,
    id: str,
    video: VideoLabels,
    numbers: Mapping[str, int],
    habits: Habits,
    world: Mapping[Modality, Encoder],
    settings: SimulationSettings,
) -> None:
    duration = float(video.duration or 0.0)
    own = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    rng = np.random.default_rng([settings.seed, own])
    bond = Bond(
        settings.correspondence,
        np.random.default_rng([settings.seed, own, BOND_STREAM]),
        width=max(encoder.dim for encoder in world.values()),
    )
    sources = plan_video(video.events, numbers, duration, habits, rng)
    rows = video_rows(
        sources, world, store.spec.grid, duration, noise=settings.noise, bond=bond, rng=rng
    )
    made = {"vision": "simulation", "audio": "simulation"}
    with store.writer(id) as writer:
        writer.append(rows)
        writer.finish(
            Summary(duration, len(rows["vision"]), {"vision": 1.0, "audio": 1.0}, made, "done")
        )


def _habits(chosen: Annotations, numbers: Mapping[str, int]) -> Habits:
    """Classes and lengths of the training events; test events have no say."""
    shares = np.zeros(len(numbers))
    lengths = []
    for video in chosen.videos.values():
        if video.subset == "train":
            for event in video.events:
                shares[numbers[event.label]] += 1
                lengths.append(event.end - event.start)
    if not lengths:
        raise ConfigError(f"{chosen.path}: the chosen training videos have no event")
    return Habits(shares / shares.sum(), np.array(lengths))


def _enough(what: str, wanted: int, there: int, path: Path) -> None:
    if wanted > there:
        raise ConfigError(
            f"the simulation asks for {wanted} {what}, {path} has {there} that fit",
            hint="ask for fewer videos, or for more classes",
        )


def _mark(annotations: Path, settings: SimulationSettings) -> str:
    """Hash of all that decides the features."""
    content = hashlib.sha256(annotations.read_bytes()).hexdigest()
    values = asdict(settings)
    if not settings.correspondence:
        del values["correspondence"]  # features of before there was a choice are the same
    text = json.dumps([VERSION, content, values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:MARK_LENGTH]
