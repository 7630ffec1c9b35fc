"""The training log: what a row holds, files of earlier versions, TensorBoard."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from extractors.storage.store import FeatureStore
from model.loco import LoCo
from pipeline.core.errors import ConfigError, EnvironmentFault
from pipeline.core.events import Event
from tests.fixtures.planted import CLASSES, plant
from tests.workflows.test_train import ARCHITECTURE, CARD, CPU, SETTINGS, stop_after
from workflows.annotations import load_annotations
from workflows.training.dataset import SplitDataset
from workflows.training.log import (
    EVENT_FOLDER,
    LOG_COLUMNS,
    EpochMeter,
    read_log,
    window_columns,
    write_log,
)
from workflows.training.loop import train
from workflows.training.state import TrainState

SHORT = replace(SETTINGS, epochs=2, warmup_epochs=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SplitDataset:
    store, labels = plant(tmp_path_factory.mktemp("data"), train=5, validation=0, test=0)
    subset = load_annotations(labels).subset("train")
    return SplitDataset(FeatureStore.open(store), subset, CLASSES)


def run(data: SplitDataset, folder: Path, *, fusion: str = "dynamic", **more: object) -> TrainState:
    torch.manual_seed(1)
    model = LoCo(**{**ARCHITECTURE, "fusion": fusion})
    return train(
        model, data, output=folder, card=CARD, device=CPU,
        **{"settings": SHORT, **more},  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_row_holds_gradient_normaliser_missed_events_and_windows(
    data: SplitDataset, tmp_path: Path
) -> None:
    state = run(data, tmp_path)
    rows = read_log(tmp_path / "log.csv")
    assert rows == state.history
    last = rows[-1]
    assert last["gradient_norm"] > 0
    assert last["normaliser"] == float(state.model.normaliser.count)
    assert last["missed"] == int(last["missed"]) >= 0
    for level in range(1, ARCHITECTURE["levels"] + 1):  # type: ignore[operator]
        assert last[f"window_size_{level}"] == pytest.approx(1.0, abs=0.3)
        assert last[f"window_offset_{level}"] >= 0


def test_events_between_all_points_are_counted_over_the_epoch(tmp_path: Path) -> None:
    store, labels = plant(tmp_path / "data", train=5, validation=0, test=0)
    videos = load_annotations(labels).subset("train")
    short = Event(1.05, 1.1, CLASSES[0], 1.0)  # steps 2.2 to 2.4
    for id in list(videos)[:3]:
        videos[id] = replace(videos[id], events=(*videos[id].events, short))
    data = SplitDataset(FeatureStore.open(store), videos, CLASSES)
    whole = replace(SHORT, epochs=1, batch_size=2, crop=(1.0, 1.0), max_seq_len=80)
    state = run(data, tmp_path, settings=whole)
    assert state.history[0]["missed"] == data.unreachable(3) == 3


def test_a_value_that_is_not_finite_is_an_empty_cell(tmp_path: Path) -> None:
    meter = EpochMeter()
    meter.add({"loss": 1.0, "gradient_norm": float("inf")})
    row = {"epoch": 1.0, **meter.row()}
    write_log(tmp_path / "log.csv", [row])
    assert read_log(tmp_path / "log.csv") == [{"epoch": 1.0, "loss": 1.0}]


def test_untrained_windows_are_base_windows(data: SplitDataset) -> None:
    model = LoCo(**ARCHITECTURE).eval()
    row = window_columns(model, data, device=CPU)
    assert set(row.values()) == {1.0, 0.0}
    with torch.no_grad():
        model.pyramid.vision[1].mixer.adapt.regress.bias[:2] = 1.0  # doubled, in one of two blocks
    assert window_columns(model, data, device=CPU)["window_size_2"] == pytest.approx(1.5)
    with torch.no_grad():
        model.pyramid.vision[1].mixer.adapt.regress.bias[:2] = -3.0  # as long, but backwards
    row = window_columns(model, data, device=CPU)
    assert row["window_size_2"] == pytest.approx(1.5)
    assert row["window_backwards_2"] == pytest.approx(0.5)


def test_a_model_without_dynamic_windows_has_no_such_columns(
    data: SplitDataset, tmp_path: Path
) -> None:
    run(data, tmp_path, fusion="global")
    with (tmp_path / "log.csv").open() as handle:
        assert tuple(csv.DictReader(handle).fieldnames or ()) == LOG_COLUMNS


def test_the_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss,lr,sigma,validation_mAP\n1.0,2.5,0.001,,\n2.0,2.25,0.001,,0.5\n")
    first, second = read_log(path)
    assert first == {"epoch": 1.0, "loss": 2.5, "lr": 0.001}
    assert second["validation_mAP"] == 0.5


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,loss\n1.0,high\n")
    with pytest.raises(ConfigError, match=r"log\.csv is no training log.*high"):
        read_log(tmp_path / "log.csv")


def test_tensorboard_that_is_missing_is_said_before_anything_is_touched(
    data: SplitDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EnvironmentFault, match=r"tensorboard, which is not installed.*pip install"):
        run(data, tmp_path, tensorboard=True)
    assert (tmp_path / "best.safetensors").exists()


def test_event_files_hold_the_rows_of_the_log_also_after_a_kill(
    data: SplitDataset, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, tensorboard=True, report=stop_after(1))
    run(data, tmp_path, tensorboard=True, resume=True)
    files = list((tmp_path / EVENT_FOLDER).iterdir())
    assert len(files) == 1
    found = EventAccumulator(str(files[0])).Reload()
    rows = read_log(tmp_path / "log.csv")
    assert set(found.Tags()["scalars"]) == set(rows[0]) - {"epoch"}
    for name in ("loss", "sigma", "window_size_1"):
        scalars = found.Scalars(name)
        assert [event.step for event in scalars] == [1, 2]
        assert [event.value for event in scalars] == pytest.approx([row[name] for row in rows])
