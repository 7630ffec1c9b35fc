"""The stages of a recipe: from features to scores, skipped while nothing has changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

import extractors.registry
from model.checkpoint import read_card
from pipeline.config import load_recipe
from pipeline.core.errors import CheckpointError, ConfigError, StoreError, UsageError
from pipeline.recipe import Recipe
from tests.fixtures.planted import PLANTED, plant
from workflows.stages import run_stages

SMALL = {
    "backbone": {"name": "planted"},
    "model": {"channels": 32, "decoder_channels": 32, "levels": 4, "max_seq_len": 72},
    "loss": {"normaliser": 20},
    "optim": {"lr": 4e-3, "epochs": 14, "warmup_epochs": 2},
    "train": {"batch_size": 4, "validate_every": 7, "seed": 3},
}


@pytest.fixture(autouse=True)
def planted_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    monkeypatch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("planted"), train=24)


def write_recipe(folder: Path, planted: tuple[Path, Path], *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    data = {"features": str(planted[0]), "annotations": str(planted[1])}
    path.write_text(yaml.safe_dump({"data": data, "output": {"folder": "run"}, **SMALL}))
    return load_recipe(path, overrides=overrides)


@pytest.fixture(scope="module")
def trained(
    planted: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, planted)
    with pytest.MonkeyPatch.context() as patch:
        planted_backbone.__wrapped__(patch)  # type: ignore[attr-defined]
        run_stages(recipe, device="cpu")
    return folder / "run", recipe
