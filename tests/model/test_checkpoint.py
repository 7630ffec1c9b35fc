"""Checkpoints return what was saved, and say what is wrong with those that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.checkpoint import Card, card_path, load_checkpoint, save_checkpoint
from model.loco import LoCo
from pipeline.core.errors import CheckpointError

ARCHITECTURE = {
    "vision_dim": 4,
    "audio_dim": 3,
    "classes": 2,
    "channels": 8,
    "decoder_channels": 8,
    "heads": 2,
}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, LoCo]:
    model = LoCo(**ARCHITECTURE)
    path = tmp_path / "best.safetensors"
    card = Card(ARCHITECTURE, ("dog", "cat"), {"name": "toy"}, "0123", {"mAP": 0.5})
    save_checkpoint(path, model.state_dict(), card)
    return path, model


def test_weights_and_card_return_as_they_were(saved: tuple[Path, LoCo]) -> None:
    path, model = saved
    loaded, card = load_checkpoint(path)
    assert card.classes == ("dog", "cat")
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_normaliser_travels_in_the_checkpoint(tmp_path: Path) -> None:
    model = LoCo(**ARCHITECTURE)
    model.normaliser.count.fill_(17.0)
    card = Card(ARCHITECTURE, ("a", "b"), {}, "")
    save_checkpoint(tmp_path / "x.safetensors", model.state_dict(), card)
    assert load_checkpoint(tmp_path / "x.safetensors")[0].normaliser.count == 17.0


def test_a_truncated_file_is_named_as_damaged(saved: tuple[Path, LoCo]) -> None:
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"best\.safetensors is damaged"):
        load_checkpoint(path)


def test_a_missing_file_and_a_missing_card_are_named(saved: tuple[Path, LoCo]) -> None:
    path, _ = saved
    path.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(path)
    card_path(path).unlink()
    with pytest.raises(CheckpointError, match=r"best\.json does not exist"):
        load_checkpoint(path)


def test_a_card_of_another_architecture_does_not_fit(saved: tuple[Path, LoCo]) -> None:
    path, _ = saved
    card = json.loads(card_path(path).read_text())
    card["architecture"]["channels"] = 16
    card_path(path).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="does not fit its card"):
        load_checkpoint(path)
