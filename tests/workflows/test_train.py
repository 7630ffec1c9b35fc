"""The training loop: the schedule of the reference, exact resume, honest failures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.storage.store import FeatureStore
from model.checkpoint import Card, load_checkpoint
from model.loco import LoCo
from pipeline.core.errors import CheckpointError, PipelineError, UsageError
from tests.fixtures.planted import AUDIO_DIM, CLASSES, SPEC, VISION_DIM, plant
from workflows.annotations import load_annotations
from workflows.training.dataset import SplitDataset
from workflows.training.log import read_log
from workflows.training.loop import batches, learning_rate, train, train_step
from workflows.training.state import TrainSettings, TrainState, parameter_groups, start_training

CPU = torch.device("cpu")
SETTINGS = TrainSettings(
    lr=1e-3,
    min_lr=1e-8,
    weight_decay=1e-2,
    epochs=4,
    warmup_epochs=1,
    batch_size=3,
    drop_last=False,
    clip=1.0,
    ema=0.99,
    seed=7,
    crop=(0.9, 1.0),
    keep=0.5,
    max_seq_len=48,
    validate_every=2,
)
ARCHITECTURE = {
    "vision_dim": VISION_DIM,
    "audio_dim": AUDIO_DIM,
    "classes": len(CLASSES),
    "channels": 16,
    "heads": 2,
    "unimodal_blocks": 1,
    "levels": 3,
    "decoder_channels": 16,
    "max_seq_len": 48,
}
CARD = Card(ARCHITECTURE, CLASSES, SPEC.to_json(), SPEC.digest)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SplitDataset:
    store, labels = plant(tmp_path_factory.mktemp("data"), train=7, validation=0, test=0)
    subset = load_annotations(labels).subset("train")
    return SplitDataset(FeatureStore.open(store), subset, CLASSES)


def fresh() -> LoCo:
    torch.manual_seed(1)
    return LoCo(**ARCHITECTURE)


def run(data: SplitDataset, folder: Path, *, resume: bool = False, **more: object) -> TrainState:
    return train(
        fresh(), data, settings=SETTINGS, output=folder, card=CARD, device=CPU, resume=resume,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def stop_after(epoch: int):  # type: ignore[no-untyped-def]
    """A listener that interrupts the training after an epoch, as Ctrl-C would."""

    def report(line: str) -> None:
        if line.split("/")[0].split()[-1] == str(epoch):
            raise KeyboardInterrupt

    return report


def test_the_learning_rate_is_that_of_the_reference(golden: Path) -> None:
    expected = np.load(golden / "train" / "learning_rate.npy")
    settings = replace(SETTINGS, lr=1e-4, epochs=45, warmup_epochs=5)
    found = [learning_rate(i, settings, per_epoch=7) for i in range(len(expected))]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_small_network_is_trained_on_one_core(
    data: SplitDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def step(*args: Any) -> dict[str, float]:
        seen.add(torch.get_num_threads())
        return train_step(*args)

    monkeypatch.setattr("workflows.training.loop.train_step", step)
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(fresh(), data, settings=SETTINGS, output=tmp_path, card=CARD, device=CPU)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_only_weights_of_maps_and_convolutions_decay() -> None:
    model = fresh()
    decayed, rest = parameter_groups(model, weight_decay=0.1)
    names = {id(value): name for name, value in model.named_parameters()}
    chosen = {names[id(value)] for value in decayed["params"]}
    spared = {names[id(value)] for value in rest["params"]}
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert chosen | spared == set(names.values())
    assert not chosen & spared
    assert all(dict(model.named_parameters())[name].dim() >= 2 for name in chosen)
    kept = ("bias", "scale", "norm.weight", "log_sigma", "temperature")
    assert all(name in spared for name in names.values() if name.endswith(kept))


def test_windows_learn_at_their_share_of_the_rate(data: SplitDataset, tmp_path: Path) -> None:
    model = fresh()
    groups = parameter_groups(model, weight_decay=0.1, window_lr=0.25)
    names = {id(value): name for name, value in model.named_parameters()}
    slow = [group for group in groups if group["share"] == 0.25]
    chosen = {names[id(value)] for group in slow for value in group["params"]}
    assert chosen == {name for name in names.values() if ".adapt." in name} != set()
    assert sorted(group["weight_decay"] for group in slow) == [0.0, 0.1]
    assert sum(len(group["params"]) for group in groups) == len(names)

    settings = replace(SETTINGS, epochs=2, window_lr=0.25)
    state = train(fresh(), data, settings=settings, output=tmp_path, card=CARD, device=CPU)
    rates = {group["share"]: group["lr"] for group in state.optimiser.param_groups}
    assert rates[0.25] == 0.25 * rates[1.0] > 0


def test_a_resumed_run_equals_an_undisturbed_one(data: SplitDataset, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "halves", report=stop_after(2))
    halves = run(data, tmp_path / "halves", resume=True)
    assert halves.iteration == whole.iteration == 4 * 3
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, halves.model.state_dict()[name]), name
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, halves.average.state_dict()[name]), name
    logs = [read_log(tmp_path / name / "log.csv") for name in ("whole", "halves")]
    for row in (row for log in logs for row in log):
        assert row.pop("seconds") > 0  # the one thing that differs
    assert logs[0] == logs[1]


def test_an_unfinished_run_is_not_thrown_away(data: SplitDataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, report=stop_after(1))
    with pytest.raises(UsageError, match=r"stopped after epoch 1 of 4.*--resume"):
        run(data, tmp_path)


@pytest.mark.parametrize("broken", ["tensors", "no tensors", "text"])
def test_a_state_that_is_damaged_is_named(data: SplitDataset, tmp_path: Path, broken: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, report=stop_after(1))
    (tensors,) = tmp_path.glob("state-*.safetensors")
    place = tmp_path / "state.json" if broken == "text" else tensors
    if broken == "no tensors":
        place.unlink()
    else:
        place.write_bytes(place.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="cannot be continued") as caught:
        run(data, tmp_path, resume=True)
    assert str(place) in str(caught.value)
    assert "state.json" in str(caught.value.hint)


def test_a_run_is_not_resumed_with_other_inputs(data: SplitDataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, report=stop_after(1), inputs="these features")
    with pytest.raises(UsageError, match="other values of inputs"):
        run(data, tmp_path, resume=True, inputs="other features")


def test_a_finished_run_makes_room_for_the_next(data: SplitDataset, tmp_path: Path) -> None:
    run(data, tmp_path)
    first = (tmp_path / "last.safetensors").stat().st_mtime_ns
    run(data, tmp_path)
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns > first
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 1


def test_the_best_epoch_on_validation_is_kept(data: SplitDataset, tmp_path: Path) -> None:
    answers = iter([0.5, 0.3])

    def validate(model: LoCo) -> Mapping[str, float]:
        assert not model.training
        return {"validation_mAP": next(answers), "threshold": 0.2}

    state = run(data, tmp_path, validate=validate)
    assert state.best == 0.5
    _, best = load_checkpoint(tmp_path / "best.safetensors")
    _, last = load_checkpoint(tmp_path / "last.safetensors")
    assert (best.metrics["epoch"], best.metrics["threshold"]) == (2, 0.2)
    assert (last.metrics["epoch"], last.metrics["validation_mAP"]) == (4, 0.3)


def test_the_saved_weights_are_the_mean_of_the_weights(data: SplitDataset, tmp_path: Path) -> None:
    state = run(data, tmp_path)
    saved, _ = load_checkpoint(tmp_path / "last.safetensors")
    for name, value in state.average.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name
    assert not torch.equal(saved.head.scale, state.model.head.scale)


def test_the_log_tells_the_terms_and_the_learned_widths(data: SplitDataset, tmp_path: Path) -> None:
    run(data, tmp_path)
    with (tmp_path / "log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["epoch"] for row in rows] == ["1.0", "2.0", "3.0", "4.0"]
    for row in rows:
        values = {name: float(row[name]) for name in row if row[name]}
        weight = 0.1
        total = values["classes"] + values["intervals"] + weight * values["correspondence"]
        assert values["loss"] == pytest.approx(total, rel=1e-5)
        assert values["sigma"] > 0
        assert values["temperature"] > 0


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_iteration(
    data: SplitDataset, tmp_path: Path
) -> None:
    model = fresh()
    with torch.no_grad():
        model.head.scale.fill_(float("nan"))
    with pytest.raises(PipelineError, match=r"the loss is nan at iteration 0 \(epoch 1\)"):
        train(model, data, settings=SETTINGS, output=tmp_path, card=CARD, device=CPU)
    assert not (tmp_path / "last.safetensors").exists()


def test_a_gradient_that_is_not_finite_changes_no_weight(data: SplitDataset) -> None:
    model = fresh()
    model.head.scale.register_hook(lambda gradient: gradient * float("inf"))
    state = start_training(model, SETTINGS)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with pytest.raises(PipelineError, match=r"the gradient is .* though the loss is"):
        train_step(state, next(batches(data, SETTINGS, epoch=0)), SETTINGS)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_a_run_from_before_a_setting_existed_goes_on(data: SplitDataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, report=stop_after(2))
    place = tmp_path / "state.json"
    saved = json.loads(place.read_text())
    del saved["settings"]["window_lr"]
    place.write_text(json.dumps(saved))
    assert run(data, tmp_path, resume=True).epoch == SETTINGS.epochs


def test_training_in_fp32_does_not_round_to_tf32(
    data: SplitDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []
    model = fresh()
    model.register_forward_pre_hook(lambda *_: seen.append(bool(torch.backends.cudnn.allow_tf32)))
    train(
        model,
        data,
        settings=replace(SETTINGS, epochs=1, warmup_epochs=0),
        output=tmp_path,
        card=CARD,
        device=CPU,
    )
    assert seen and not any(seen)
    assert torch.backends.cudnn.allow_tf32, "what others run keeps the caller's setting"


def test_batches_depend_on_seed_and_epoch_alone(data: SplitDataset) -> None:
    def shown(epoch: int) -> list[Tensor]:
        return [batch.vision for batch in batches(data, SETTINGS, epoch=epoch)]

    assert all(torch.equal(a, b) for a, b in zip(shown(0), shown(0), strict=True))
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(shown(0), shown(1), strict=True)
    )
    assert max(batch.shape[-1] for batch in shown(0)) <= SETTINGS.max_seq_len


def test_the_state_holds_no_pickle(data: SplitDataset, tmp_path: Path) -> None:
    run(data, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".csv"}
    assert json.loads((tmp_path / "state.json").read_text())["epoch"] == 4
