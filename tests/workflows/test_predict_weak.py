"""A trained CLASP on stored features: times, ranking, curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extractors.features import Features
from extractors.storage.store import FeatureStore
from model.checkpoint import Card
from model.clasp import CLASP, Activation
from model.decoding import DecodingSettings
from pipeline.core.errors import CheckpointError
from pipeline.core.events import AGREEMENT
from tests.fixtures.planted import AUDIO_DIM, CLASSES, SPEC, VISION_DIM, add_video, noise
from workflows.weak.predict import LocalisationSettings, WeakPredictor

ARCHITECTURE = {"vision_dim": VISION_DIM, "audio_dim": AUDIO_DIM, "classes": len(CLASSES)}


class Told(CLASP):
    """Says what it is told: class 1 in steps 8 to 15, and class 0 weakly over the whole video."""

    def forward(self, vision: Tensor, audio: Tensor, seen: Tensor, heard: Tensor) -> Activation:
        activation = torch.zeros(1, len(CLASSES), vision.shape[2])
        activation[:, 0] = 0.3
        activation[:, 1, 8:16] = 0.9
        video = activation.amax(2)
        return Activation(activation, video, activation.amax(1), seen & heard, {"joint": video})


@pytest.fixture
def features(tmp_path: Path) -> Features:
    store = FeatureStore.create(tmp_path / "store", SPEC)
    add_video(store, "clip.mp4", noise(np.random.default_rng(0), 40))
    return store.read("clip.mp4")


def predictor(digest: str) -> WeakPredictor:
    torch.manual_seed(0)
    model: nn.Module = Told(**ARCHITECTURE, channels=8, heads=2).eval()
    assert isinstance(model, CLASP)
    return WeakPredictor(model, Card(ARCHITECTURE, CLASSES, {}, digest, method="clasp"))


def test_events_have_the_borders_of_their_steps_in_seconds(features: Features) -> None:
    events, _ = predictor(features.digest).detect(features)
    best = events[0]
    centres = features.grid.centres(features.steps)
    step = centres[1] - centres[0]
    assert best.label == CLASSES[1]
    assert best.start == pytest.approx(centres[8] - step / 2, abs=2 * step)
    assert best.end == pytest.approx(centres[15] + step / 2, abs=2 * step)
    whole = next(event for event in events if event.label == CLASSES[0])
    assert (whole.start, whole.end) == (0.0, features.summary.duration)
    assert sum(event.label == CLASSES[1] for event in events) == 1, "people want it once"


def test_ranking_keeps_candidates_of_several_lengths_best_first(features: Features) -> None:
    found = predictor(features.digest)(features)
    scores = [event.score for event in found]
    assert scores == sorted(scores, reverse=True) and all(0 < score <= 1 for score in scores)
    assert sum(event.label == CLASSES[1] for event in found) > 1


def test_curves_show_agreement_beside_the_classes(features: Features) -> None:
    _, curves = predictor(features.digest).detect(features)
    assert curves.labels[-1] == AGREEMENT and curves.labels[0] == CLASSES[1]
    assert curves.values.shape == (features.steps, len(curves.labels))
    assert curves.values[10, -1] == pytest.approx(0.9, abs=1e-3)


def test_a_median_smooths_where_the_recipe_says_so(features: Features) -> None:
    """The plateau of 8 steps keeps its borders; a mean over 5 steps makes slopes of them."""
    settings = LocalisationSettings()
    recipe = replace(settings.recipe, filter="median")
    torch.manual_seed(0)
    model: nn.Module = Told(**ARCHITECTURE, channels=8, heads=2).eval()
    assert isinstance(model, CLASP)
    card = Card(ARCHITECTURE, CLASSES, {}, features.digest, method="clasp")
    smoothed = WeakPredictor(model, card, settings=replace(settings, recipe=recipe))(features)
    borders = {(event.start, event.end) for event in smoothed if event.label == CLASSES[1]}
    grid = features.grid
    assert borders == {(float(grid.to_seconds(7.5)), float(grid.to_seconds(15.5)))}
    plain = {(e.start, e.end) for e in predictor(features.digest)(features)}
    assert len([border for border in plain if border not in borders]) > 1


def test_candidates_are_kept_for_each_piece_of_a_long_video(tmp_path: Path) -> None:
    """A limit of short videos would leave an hour with a hundred."""
    store = FeatureStore.create(tmp_path / "store", SPEC)
    add_video(store, "long.mp4", noise(np.random.default_rng(0), 100))
    features = store.read("long.mp4")
    torch.manual_seed(0)
    model: nn.Module = Told(**ARCHITECTURE, channels=8, heads=2).eval()
    assert isinstance(model, CLASP)
    card = Card(ARCHITECTURE, CLASSES, {}, features.digest, method="clasp")
    pieces = DecodingSettings(chunk=40, overlap=0)
    settings = LocalisationSettings(max_total=1, pieces=pieces)
    assert len(WeakPredictor(model, card, settings=settings)(features)) == 3
    whole = replace(settings, pieces=DecodingSettings())
    assert len(WeakPredictor(model, card, settings=whole)(features)) == 1


def test_features_of_another_backbone_are_refused(features: Features) -> None:
    with pytest.raises(CheckpointError, match="extract the features again"):
        predictor("0000")(replace(features, digest="1111"))
