"""Checkpoints and trainings of another backbone or class list are refused in words."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

import extractors.registry
from extractors.storage.store import FeatureStore
from model.checkpoint import load_checkpoint, save_checkpoint
from pipeline.config import load_recipe
from pipeline.core.errors import CheckpointError, UsageError
from pipeline.recipe import Recipe
from tests.fixtures.planted import PLANTED, plant
from workflows.detection.predict import TrainedDetector
from workflows.stages import run_stages

MODEL = {"channels": 8, "decoder_channels": 8, "unimodal_blocks": 0, "levels": 2,
         "max_seq_len": 72}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def planted_backbone() -> Iterator[None]:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("planted"), train=4, validation=0, test=2)


@pytest.fixture(scope="module")
def trained(planted: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run_stages(recipe_of(folder, planted), stage="train", device="cpu")
    return folder / "run"


def recipe_of(folder: Path, planted: tuple[Path, Path], *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    data = {"features": str(planted[0]), "annotations": str(planted[1]), "validation": ""}
    sections = {"data": data, "output": {"folder": "run"}, "backbone": {"name": "planted"}}
    optim = {"epochs": 2, "warmup_epochs": 0}
    path.write_text(yaml.safe_dump({**sections, "model": MODEL, "optim": optim}))
    return load_recipe(path, overrides=overrides)


def relabelled(labels: Path, folder: Path, old: str, new: str) -> Path:
    """The annotations with one class under another name."""
    value = json.loads(labels.read_text())
    for video in value["database"].values():
        for row in video["annotations"]:
            row["label"] = new if row["label"] == old else row["label"]
    path = folder / "relabelled.json"
    path.write_text(json.dumps(value))
    return path


def test_evaluating_on_classes_that_the_model_never_saw_is_refused(
    planted: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    labels = relabelled(planted[1], tmp_path, "dog", "wolf")
    said = r"trained on 3 classes and knows nothing of 1 of the 3 annotated ones: 'wolf'"
    with pytest.raises(CheckpointError, match=said):
        run_stages(recipe_of(tmp_path, (planted[0], labels)), stage="eval", device="cpu")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_features_of_another_backbone_are_refused_with_both_digests(
    planted: tuple[Path, Path], trained: Path
) -> None:
    detector = TrainedDetector(trained / "best.safetensors", device="cpu")
    features = FeatureStore.open(planted[0]).read("test/00.mp4")
    with pytest.raises(CheckpointError, match=r"'planted'.*these have digest 0123"):
        detector.detect_features(replace(features, digest="0123"))
    with pytest.raises(CheckpointError, match="these have digest 0123"):
        detector.detections(replace(features, digest="0123"), video="x")


def test_a_checkpoint_of_a_backbone_that_this_version_lacks_is_refused(
    trained: Path, tmp_path: Path
) -> None:
    model, card = load_checkpoint(trained / "best.safetensors")
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, model.state_dict(), replace(card, backbone={"name": "plantd"}))
    with pytest.raises(UsageError, match="did you mean 'planted'"):
        TrainedDetector(path, device="cpu")


@pytest.mark.parametrize("change", ["labels", "width"])
def test_a_training_is_not_resumed_with_another_class_list_or_network(
    planted: tuple[Path, Path], trained: Path, tmp_path: Path, change: str
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    labels, overrides = planted[1], ["model.channels=16"]
    if change == "labels":
        labels, overrides = relabelled(planted[1], tmp_path, "dog", "wolf"), []
    recipe = recipe_of(tmp_path, (planted[0], labels), *overrides)
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    with pytest.raises(UsageError, match="made with other values of inputs") as caught:
        run_stages(recipe, stage="train", resume=True, device="cpu")
    assert "annotations" in caught.value.hint
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_half_files_of_a_killed_training_are_cleared_away(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    left = tmp_path / "run" / ".77.0123.part"
    young = left.with_name(".78.4567.part")
    left.parent.mkdir()
    for path in (left, young):
        path.write_bytes(b"half of a state")
    os.utime(left, (time.time() - 7200,) * 2)
    run_stages(recipe_of(tmp_path, planted), stage="train", device="cpu")
    assert not left.exists()
    assert young.exists(), "it may be of a writer that is at work"
