"""The stages of a recipe: from features to scores, skipped while nothing has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml

import extractors.registry
from extractors.storage.store import FeatureStore
from model.checkpoint import load_checkpoint, read_card, save_checkpoint
from pipeline.config import load_recipe
from pipeline.core.errors import CheckpointError, ConfigError, StoreError, UsageError
from pipeline.recipe import DataConfig, LossConfig, OutputConfig, Recipe, TrainConfig
from pipeline.recipe_weak import LocaliseConfig
from tests.fixtures.planted import CLASSES, PLANTED, SPEC, add_video, noise, plant
from workflows.detection.predict import TrainedDetector
from workflows.evaluate import evaluate_file
from workflows.stages import _fingerprint, run_stages

SMALL = {
    "backbone": {"name": "planted"},
    "model": {
        "channels": 24,
        "decoder_channels": 24,
        "unimodal_blocks": 1,
        "levels": 4,
        "max_seq_len": 72,
    },
    "loss": {"normaliser": 20},
    "optim": {"lr": 4e-3, "epochs": 10, "warmup_epochs": 1},
    "train": {"batch_size": 4, "validate_every": 5, "seed": 3},
}
QUICK = ("optim.epochs=1", "optim.warmup_epochs=0")


@pytest.fixture(autouse=True, scope="module")
def planted_backbone() -> Iterator[None]:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("planted"), train=20)


def recipe_of(folder: Path, planted: tuple[Path, Path], *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    data = {"features": str(planted[0]), "annotations": str(planted[1])}
    path.write_text(yaml.safe_dump({"data": data, "output": {"folder": "run"}, **SMALL}))
    return load_recipe(path, overrides=overrides)


def outcomes(recipe: Recipe, stage: str = "all", *, resume: bool = False) -> list[str]:
    report = run_stages(recipe, stage=stage, resume=resume, device="cpu")
    assert report.exit_code == 0
    return [f"{row.stage} {row.outcome}" for row in report.rows]


@pytest.fixture(scope="module")
def trained(
    planted: tuple[Path, Path],
    planted_backbone: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, outcomes(recipe_of(folder, planted))


def test_the_trained_detector_beats_the_whole_video_baseline(
    trained: tuple[Path, list[str]],
) -> None:
    folder, ran = trained
    assert ran == ["extract left out", "train done", "eval done", "detect left out"]
    scores = json.loads((folder / "run/metrics.json").read_text())
    found = scores["scores"]["average_mAP"]
    assert found > 0.5
    assert found > scores["whole_video_baseline"]["average_mAP"] + 0.3


def test_the_written_predictions_score_what_the_stage_said(
    trained: tuple[Path, list[str]], planted: tuple[Path, Path]
) -> None:
    run = trained[0] / "run"
    scores = json.loads((run / "metrics.json").read_text())["scores"]
    report = evaluate_file(run / "predictions.json", planted[1])
    assert report.scores.average == pytest.approx(scores["average_mAP"], abs=1e-9)


def test_the_card_says_how_the_checkpoint_was_made(trained: tuple[Path, list[str]]) -> None:
    card = read_card(trained[0] / "run" / "best.safetensors")
    assert card.classes == CLASSES
    assert card.digest == SPEC.digest
    assert card.metrics["validation_mAP"] > 0.5
    assert 0 < card.metrics["threshold"] < 1
    assert "--stage train" in card.command
    assert str(trained[0] / "recipe.yaml") in card.command


def test_a_second_run_finds_nothing_to_do_and_a_change_is_noticed(
    trained: tuple[Path, list[str]], planted: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    same = recipe_of(tmp_path, planted)
    assert outcomes(same)[1:3] == ["train unchanged", "eval unchanged"]
    other = recipe_of(tmp_path, planted, "eval.tiou=[0.5]")
    assert outcomes(other)[1:3] == ["train unchanged", "eval done"]
    (tmp_path / "run/metrics.json").unlink()
    assert outcomes(other, "eval") == ["eval done"]
    changed = recipe_of(tmp_path, planted, *QUICK)
    assert outcomes(changed, "train") == ["train done"]


@pytest.mark.parametrize(
    ("section", "mark", "changes"),
    [
        (
            "localise",
            "5ef7e0ac766fd3a8cafbadb327b4f9496620931361955de846176f1a4ab9563f",
            [{"localise": LocaliseConfig(filter="median")}],
        ),
        (
            "loss",
            "c0424c4e9c9f788e964237ebfa62ae790a2b1abea7a95220c93e8ed3c59c2374",
            [{"loss": LossConfig(sigma_unit="video")}, {"loss": LossConfig(least_sigma=0.1)}],
        ),
        (
            "train",
            "0c382f24e338c144490d4158399f3a28925b1c04c680d2510f32f059fa15d378",
            [{"train": TrainConfig(crop_margin=1.0)}],
        ),
    ],
)
def test_a_value_that_came_later_leaves_finished_runs_finished(
    planted: tuple[Path, Path], section: str, mark: str, changes: list[dict[str, Any]]
) -> None:
    """A section has the mark that it had before there was the value, until that is another."""
    nowhere = Path("/nowhere/of this name")
    data, output = DataConfig(features=nowhere, annotations=nowhere), OutputConfig(folder=nowhere)
    recipe, store = Recipe(data=data, output=output), FeatureStore.open(planted[0])
    assert _fingerprint(recipe, store, [], [section]) == mark
    for change in changes:
        assert _fingerprint(replace(recipe, **change), store, [], [section]) != mark


def test_new_videos_in_the_store_that_no_subset_uses_change_nothing(
    trained: tuple[Path, list[str]], planted: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    add_video(FeatureStore.open(planted[0]), "more.mp4", noise(np.random.default_rng(0), 20))
    assert outcomes(recipe_of(tmp_path, planted))[1:3] == ["train unchanged", "eval unchanged"]


def test_stored_features_need_no_nets_and_give_events_within_the_video(
    trained: tuple[Path, list[str]], planted: tuple[Path, Path]
) -> None:
    detector = TrainedDetector(trained[0] / "run" / "best.safetensors", device="cpu")
    store = FeatureStore.open(planted[0])
    features = store.read("test/00.mp4")
    events, curves = detector.detect_features(features)
    assert detector.digest == store.digest
    assert events
    assert all(0 <= e.start < e.end <= features.summary.duration for e in events)
    assert curves.values.shape == (features.steps, len(curves.labels))
    assert {event.label for event in events} <= set(curves.labels)
    # An event's activation inside it is far above that where nothing is: the curve is in time.
    best = events[0]
    curve = curves.values[:, curves.labels.index(best.label)]
    inside = (curves.times > best.start) & (curves.times < best.end)
    assert curve[inside].max() == pytest.approx(best.score, abs=0.05)


def test_only_the_labels_that_were_asked_for_are_reported(
    trained: tuple[Path, list[str]], planted: tuple[Path, Path]
) -> None:
    path = trained[0] / "run" / "best.safetensors"
    detector = TrainedDetector(path, device="cpu", labels=["dog"], min_score=0.0)
    store = FeatureStore.open(planted[0])
    events, curves = detector.detect_features(store.read("test/00.mp4"))
    assert {event.label for event in events} == {"dog"}
    assert curves.labels == ("dog",)
    with pytest.raises(UsageError, match="did you mean 'drum'"):
        TrainedDetector(path, device="cpu", labels=["drumm"])


def test_features_of_another_backbone_are_refused(
    trained: tuple[Path, list[str]], tmp_path: Path
) -> None:
    model, card = load_checkpoint(trained[0] / "run" / "best.safetensors")
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, model.state_dict(), replace(card, digest="0" * 16))
    with pytest.raises(CheckpointError, match="another version of backbone 'planted'"):
        TrainedDetector(path, device="cpu")


def test_a_store_of_another_backbone_is_refused(planted: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, planted, "backbone.name=lite")
    with pytest.raises(StoreError, match="made by the backbone 'planted'"):
        run_stages(recipe, stage="train", device="cpu")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("backbone.name=plantd", "did you mean 'planted'"),
        ("detect.formats=[jsn]", "jsn"),
        ("data.train=trian", "did you mean 'train'"),
        ("data.annotations=/none.json", "/none.json does not exist"),
    ],
)
def test_a_mistake_is_said_before_any_work(
    planted: tuple[Path, Path], tmp_path: Path, override: str, said: str
) -> None:
    recipe = recipe_of(tmp_path, planted, override)
    with pytest.raises((UsageError, ConfigError), match=said) as caught:
        run_stages(recipe, device="cpu")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run" / "state.json").exists()


def test_evaluating_before_training_says_so(planted: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no trained model at .*run the train stage first"):
        run_stages(recipe_of(tmp_path, planted), stage="eval", device="cpu")


def test_missing_features_are_noted_or_refused(planted: tuple[Path, Path], tmp_path: Path) -> None:
    value = json.loads(planted[1].read_text())
    value["database"]["train/lost"] = {**value["database"]["train/00"]}
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(value))
    recipe = recipe_of(tmp_path, (planted[0], labels), *QUICK)
    report = run_stages(recipe, stage="train", device="cpu")
    assert "1 of 21 annotated videos have no features: train/lost" in report.format_table()
    strict = recipe_of(tmp_path, (planted[0], labels), *QUICK, "data.missing=error")
    with pytest.raises(ConfigError, match="train/lost"):
        run_stages(strict, stage="train", device="cpu")


def test_without_a_validation_subset_the_last_epoch_is_the_best(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, planted, *QUICK, 'data.validation=""')
    assert outcomes(recipe, "train") == ["train done"]
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_a_model_can_be_trained_on_one_modality(planted: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, planted, *QUICK, "data.modalities=audio", "model.fusion=none")
    assert outcomes(recipe, "train") == ["train done"]
    assert read_card(tmp_path / "run" / "best.safetensors").data["modalities"] == "audio"
