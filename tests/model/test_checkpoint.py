"""Checkpoints return what was saved, and say what is wrong with those that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import (
    FORMAT,
    Card,
    card_path,
    load_checkpoint,
    load_network,
    read_card,
    save_checkpoint,
)
from model.clasp import CLASP
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
NAMES = ("dog", "cat")


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


def test_a_card_says_which_method_its_weights_are_of(tmp_path: Path) -> None:
    architecture = {"vision_dim": 4, "audio_dim": 3, "classes": 2, "channels": 8, "heads": 2}
    model = CLASP(**architecture)
    path = tmp_path / "weak.safetensors"
    save_checkpoint(path, model.state_dict(), Card(architecture, NAMES, {}, "", method="clasp"))
    loaded, card = load_network(path)
    assert isinstance(loaded, CLASP) and card.method == "clasp"
    with pytest.raises(CheckpointError, match="of the method 'clasp'"):
        load_checkpoint(path)
    save_checkpoint(path, model.state_dict(), Card(architecture, NAMES, {}, "", method="clap"))
    with pytest.raises(CheckpointError, match="unknown method 'clap'"):
        load_network(path)


def test_cards_of_before_there_were_methods_are_of_loco(saved: tuple[Path, LoCo]) -> None:
    path, model = saved
    value = json.loads(card_path(path).read_text())
    del value["method"]
    save_file(model.state_dict(), path, metadata={"card": json.dumps(value)})
    card_path(path).write_text(json.dumps(value))
    assert read_card(path).method == "loco"
    assert isinstance(load_network(path)[0], LoCo)


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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_alone_know_what_they_are(saved: tuple[Path, LoCo]) -> None:
    path, model = saved
    card_path(path).unlink()
    loaded, card = load_checkpoint(path)
    assert card.metrics == {"mAP": 0.5}
    assert torch.equal(loaded.head.scale, model.head.scale)


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="it has no card"):
        load_checkpoint(path)


def test_a_card_of_another_checkpoint_is_refused(saved: tuple[Path, LoCo]) -> None:
    path, _ = saved
    card = json.loads(card_path(path).read_text())
    card["classes"] = ["cat", "dog"]
    card_path(path).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="disagree on classes"):
        load_checkpoint(path)


def test_a_card_that_cannot_be_read_is_named(saved: tuple[Path, LoCo]) -> None:
    path, _ = saved
    card_path(path).write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError, match=r"best\.json cannot be read") as caught:
        load_checkpoint(path)
    assert "carry a card of their own" in str(caught.value.hint)


def test_weights_that_do_not_fit_their_card_are_refused(tmp_path: Path) -> None:
    model = LoCo(**ARCHITECTURE)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, model.state_dict(), Card({**ARCHITECTURE, "channels": 16}, NAMES, {}, ""))
    with pytest.raises(CheckpointError, match="does not fit its card"):
        load_checkpoint(path)


def test_a_card_with_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    model = LoCo(**ARCHITECTURE)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, model.state_dict(), Card({**ARCHITECTURE, "future": 1}, NAMES, {}, ""))
    with pytest.raises(CheckpointError, match="no argument 'future'"):
        load_checkpoint(path)


def test_class_names_must_be_as_many_as_the_networks_classes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = LoCo(**ARCHITECTURE).state_dict()
    save_checkpoint(path, state, Card(ARCHITECTURE, ("dog",), {}, ""))
    with pytest.raises(CheckpointError, match="names 1 classes for a network of 2"):
        load_checkpoint(path)


def test_a_card_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = LoCo(**ARCHITECTURE).state_dict()
    save_checkpoint(path, state, Card(ARCHITECTURE, NAMES, {}, "", format=FORMAT + 1))
    with pytest.raises(CheckpointError, match="update the program"):
        load_checkpoint(path)


def test_the_folder_holds_two_files_and_nothing_else(saved: tuple[Path, LoCo]) -> None:
    path, _ = saved
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "best.json",
        "best.safetensors",
    ]
    assert read_card(path).classes == tuple(json.loads(card_path(path).read_text())["classes"])
