"""What training and evaluation of CLASP do differently: labels of videos in, segments never read.

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extractors.storage.store import FeatureStore
from model.build import Network
from model.checkpoint import Card
from model.clasp import CLASP
from pipeline.core.errors import ConfigError
from pipeline.core.events import Event
from pipeline.recipe import Recipe
from workflows.annotations import Annotations
from workflows.bounds import Bounds, measure_bounds
from workflows.evaluate import EvaluationReport, score_split
from workflows.stage_data import hears_teacher, is_plain_list, is_weak
from workflows.training.build import localisation_settings
from workflows.training.dataset import SplitDataset
from workflows.weak.anchor_places import AnchorPlaces
from workflows.weak.dataset import WeakDataset
from workflows.weak.predict import WeakPredictor
from workflows.weak.video_metrics import video_precision


def weak_split(
    recipe: Recipe, labels: Annotations, store: FeatureStore, subset: str
) -> WeakDataset:
    """A subset's videos with their classes; see `workflows.weak.dataset.WeakDataset`.

    Raises:
        ConfigError: No video has a step at which picture and sound are both there, and a weak model
            is to learn from them.
    """
    data = WeakDataset(
        store,
        labels.subset(subset),
        labels.classes,
        modalities=recipe.data.modalities,
        cache_bytes=int(recipe.train.cache_gb * 1e9),
        name_others=is_plain_list(recipe),
    )
    heard = is_weak(recipe) or hears_teacher(recipe)
    if heard and len(data.one_sided) == len(data):
        raise ConfigError(
            f"none of the {len(data)} videos of the subset {subset!r} has a step with both picture "
            f"and sound in {recipe.data.features}",
            hint="a weak model learns from what is seen and heard: give videos that have both",
        )
    return data


def video_validator(
    recipe: Recipe, data: SplitDataset, card: Card
) -> Callable[[Network], dict[str, float]]:
    """Mean average precision over videos, which asks for no segment.

    It tells the best epoch by what happens in the videos, not by when.
    """
    truth = {id: list(data.videos[id].classes) for id in data.ids}

    def validate(model: Network) -> dict[str, float]:
        assert isinstance(model, CLASP)
        predict = WeakPredictor(model, card, settings=localisation_settings(recipe))
        scores = {id: predict.activate(data.features(id)).video.numpy() for id in data.ids}
        found = video_precision(truth, scores, card.classes)
        return {"validation_mAP": float(np.mean(list(found.values()))) if found else 0.0}

    return validate


@dataclass(frozen=True, slots=True)
class WeakEvaluation:
    """A trained CLASP on segments, with what gives its scores a meaning.

    Attributes:
        report: Its scores. The whole-video answer beside them has its own scores of the video.
        predictions: Events of each video.
        bounds: What answers that know part of the truth score on the same videos.
        places: Where its anchors, agreement and activation lie.
    """

    report: EvaluationReport
    predictions: dict[str, list[Event]]
    bounds: Bounds
    places: AnchorPlaces

    def to_json(self) -> dict[str, Any]:
        """Contents of ``metrics.json``."""
        return {
            **self.report.to_json(),
            "bounds": self.bounds.to_json()["bounds"],
            "anchors": self.places.to_json(),
        }

    def format_table(self) -> str:
        """What stands below the scores."""
        return f"{self.bounds.format_table()}\n\n{self.places.format_table()}"


def evaluate_weak(
    recipe: Recipe, model: CLASP, card: Card, data: SplitDataset, notes: Sequence[str]
) -> WeakEvaluation:
    """Score a trained CLASP on segments.

    Anchors of a video in several pieces are chosen as if it were in one.
    """
    predict = WeakPredictor(model, card, settings=localisation_settings(recipe))
    predictions: dict[str, list[Event]] = {}
    scores: dict[str, dict[str, float]] = {}
    videos, places = dict(data.videos), AnchorPlaces()
    for id in data.ids:
        features = data.features(id)
        duration = features.summary.duration
        scan = predict.scanned(features)
        predictions[id] = scan.candidates(features.grid, duration)
        said = scan.activation
        anchors = model.choose_anchors(said.agreement.float()[None], said.valid[None])
        places.add(said, anchors, videos[id].events, card.classes, features.grid)
        scores[id] = {
            label: value
            for label, value in zip(card.classes, said.video.tolist(), strict=True)
            if value >= recipe.infer.min_score  # as for events
        }
        videos[id] = replace(videos[id], duration=videos[id].duration or duration)
    report = score_split(data, predictions, tiou=recipe.eval.tiou, video_scores=scores, notes=notes)
    bounds = measure_bounds(videos, tiou=recipe.eval.tiou)
    return WeakEvaluation(report, predictions, bounds, places)
