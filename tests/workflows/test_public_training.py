"""Training as the public code does it, by switches; and what a trained checkpoint costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

import extractors.registry
from model.checkpoint import load_checkpoint, read_card
from model.loco import LoCo
from pipeline.cli import main
from pipeline.config import load_recipe
from tests.fixtures.planted import PLANTED, plant
from workflows.stages import run_stages

NARROW = (
    "model.channels=8",
    "model.decoder_channels=8",
    "model.heads=2",
    "model.levels=3",
    "model.max_seq_len=32",
)


@pytest.fixture
def planted_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    monkeypatch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))
    store, labels = plant(tmp_path / "data", train=6, validation=2, test=2)
    data = {"features": str(store), "annotations": str(labels)}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": data, "output": {"folder": "run"}}))
    yield path


def train(path: Path, folder: Path, *overrides: str) -> Path:
    recipe = load_recipe(
        path,
        overrides=[
            *NARROW,
            "backbone.name=planted",
            "optim.epochs=2",
            "optim.warmup_epochs=0",
            "train.batch_size=4",
            f"output.folder={folder}",
            *overrides,
        ],
    )
    assert run_stages(recipe, stage="train", resume=False, device="cpu").exit_code == 0
    return folder / "best.safetensors"


def test_without_warm_up_the_mean_of_a_short_run_stays_near_its_start(
    planted_recipe: Path, tmp_path: Path
) -> None:
    quick = "optim.lr=1e-2"
    start, _ = load_checkpoint(
        train(planted_recipe, tmp_path / "0", "optim.lr=1e-12", "optim.min_lr=0")
    )
    warm, _ = load_checkpoint(train(planted_recipe, tmp_path / "1", quick))
    cold, _ = load_checkpoint(
        train(planted_recipe, tmp_path / "2", quick, "optim.ema_warmup=false")
    )

    def way(model: LoCo) -> float:
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return sum(float(((a - b).detach() ** 2).sum()) for a, b in pairs)

    assert way(cold) < way(warm) / 10


def test_adam_differs_from_adamw_and_raw_weights_may_choose_the_epoch(
    planted_recipe: Path, tmp_path: Path
) -> None:
    base = ("optim.lr=1e-2", "optim.weight_decay=0.5")
    cards = {}
    for name, override in (
        ("adamw", "optim.optimiser=adamw"),
        ("adam", "optim.optimiser=adam"),
        ("raw", "train.validate_on=raw"),
    ):
        path = train(planted_recipe, tmp_path / name, *base, override)
        cards[name] = read_card(path).metrics
    assert cards["adam"]["loss"] != cards["adamw"]["loss"]
    assert cards["raw"]["loss"] == cards["adamw"]["loss"]
    assert cards["raw"]["validation_mAP"] != cards["adamw"]["validation_mAP"]


def test_a_checkpoint_is_counted_from_its_card(
    planted_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train(planted_recipe, tmp_path / "run")
    capsys.readouterr()
    assert main(["model", "--model", str(path), "--steps", "32", "--json"]) == 0
    (counted,) = json.loads(capsys.readouterr().out)["networks"].values()
    model, card = load_checkpoint(path)
    assert counted["parameters"] == sum(value.numel() for value in model.parameters())
    assert counted["architecture"] == card.architecture
    assert main(["model", "--model", str(path), "--classes", "5"]) == 2
    assert "has the sizes that it was trained with" in capsys.readouterr().err
