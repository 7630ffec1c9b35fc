"""Train on a planted store and die by SIGKILL at a given moment.

    python -m tests.workflows.killed_training STORE LABELS FOLDER MOMENT [FOLDER MOMENT ...]

Each folder is a run of its own, in a child process that kills itself: no block of ``finally``, no
flush. Prints the signal that ended each child. Moments: ``batch N`` before the N-th batch (from 1),
``state N`` with half of the N-th state file written, ``pointer N`` between the N-th state file and
the ``state.json`` that points at it, ``checkpoint N`` with half of the
N-th best checkpoint written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import model.checkpoint
import workflows.training.loop
import workflows.training.state
from extractors.storage.store import FeatureStore
from tests.fixtures.planted import CLASSES
from tests.workflows.test_train import run
from workflows.annotations import load_annotations
from workflows.training.dataset import SplitDataset


def die_at(module: Any, name: str, call: int, *, half: bool) -> None:
    """Let the ``call``-th call of a function be the last thing that happens, or half happens."""
    original: Callable[..., Any] = getattr(module, name)
    count = 0

    def deadly(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count < call:
            return original(*args, **options)
        if half:
            original(*args, **options)
            path = Path(args[1])
            os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(module, name, deadly)


def arm(moment: str, number: int) -> None:
    """Prepare the death of this process."""
    if moment == "batch":
        die_at(workflows.training.loop, "train_step", number, half=False)
    elif moment == "state":
        die_at(workflows.training.state, "save_file", number, half=True)
    elif moment == "pointer":
        die_at(workflows.training.state, "write_json", number, half=False)
    elif moment == "checkpoint":
        die_at(model.checkpoint, "save_file", 2 * number, half=True)  # last, then best
    else:
        raise ValueError(f"no such moment: {moment}")


def main(store: str, labels: str, *runs: str) -> None:
    """Run and kill."""
    torch.set_num_threads(1)
    subset = load_annotations(Path(labels)).subset("train")
    data = SplitDataset(FeatureStore.open(store), subset, CLASSES)
    for folder, moment, number in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        child = os.fork()
        if child == 0:
            arm(moment, int(number))
            run(data, Path(folder))
            os._exit(0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
