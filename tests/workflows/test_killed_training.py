"""A training that is killed at any moment goes on to the results of an undisturbed one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from extractors.storage.store import FeatureStore
from model.checkpoint import load_checkpoint
from tests.fixtures.planted import CLASSES, plant
from tests.workflows.test_train import run
from workflows.annotations import load_annotations
from workflows.training.dataset import SplitDataset
from workflows.training.log import read_log
from workflows.training.state import TrainState

# 4 epochs of 3 batches. Epochs that the state on disk has when the process is gone:
MOMENTS = {
    "batch 8": 2,  # in the middle of the third epoch
    "state 1": 0,  # half of the first state written, beside a whole checkpoint
    "pointer 2": 1,  # the second state is there, state.json names the first
    "checkpoint 3": 2,  # half of a checkpoint written, the one before stays
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs, one a moment, and the planted data; every run was killed."""
    folder = tmp_path_factory.mktemp("killed")
    store, labels = plant(folder / "data", train=7, validation=0, test=0)
    runs = [part for moment in MOMENTS for part in (str(folder / moment), *moment.split())]
    done = subprocess.run(
        [sys.executable, "-m", "tests.workflows.killed_training", str(store), str(labels), *runs],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(MOMENTS)
    return folder


@pytest.fixture(scope="module")
def data(killed: Path) -> SplitDataset:
    subset = load_annotations(killed / "data" / "labels.json").subset("train")
    return SplitDataset(FeatureStore.open(killed / "data" / "store"), subset, CLASSES)


@pytest.fixture(scope="module")
def whole(killed: Path, data: SplitDataset) -> TrainState:
    return run(data, killed / "whole")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    killed: Path, data: SplitDataset, whole: TrainState, moment: str
) -> None:
    folder = killed / moment
    if moment == "checkpoint 3":  # what a killed writer leaves can be used
        found = [load_checkpoint(folder / f"{name}.safetensors")[1] for name in ("last", "best")]
        assert [card.metrics["epoch"] for card in found] == [3, 2]
    epochs: list[str] = []
    resumed = run(data, folder, resume=True, report=epochs.append)
    assert len(epochs) == 4 - MOMENTS[moment], "it went on from the last whole epoch"
    for name in ("model", "average"):
        expected = getattr(whole, name).state_dict()
        for key, value in getattr(resumed, name).state_dict().items():
            assert torch.equal(value, expected[key]), (name, key)
    logs = [read_log(path / "log.csv") for path in (killed / "whole", folder)]
    for row in (row for log in logs for row in log):
        assert row.pop("seconds") > 0  # the one thing that differs
    assert logs[0] == logs[1]
    for name in ("best", "last"):
        file = f"{name}.safetensors"
        assert (folder / file).read_bytes() == (killed / "whole" / file).read_bytes()
    assert len(list(folder.glob("state-*.safetensors"))) == 1
