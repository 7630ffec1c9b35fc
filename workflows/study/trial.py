"""One trial: a model trained on stored features and measured, as one task of many.

The demo, which compares a few models, and a study, which compares many over several seeds, both
consist of these.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import load_network
from pipeline.config import load_recipe
from workflows.stages import run_stages


@dataclass(frozen=True, slots=True)
class Trial:
    """One training and measurement; plain values, so that it can go to another process.

    Attributes:
        config: The recipe's file.
        overrides: What is changed in it, as for ``--set``; the folder of the run is among them.
        device: Where the model runs.
    """

    config: str
    overrides: tuple[str, ...]
    device: str


def run_trial(trial: Trial) -> dict[str, Any]:
    """Train one model and score it; what is finished is kept, what was broken off goes on.

    Returns:
        The contents of its ``metrics.json``, with ``parameters`` of the model and ``seconds`` of
        its training (None where the log does not say).

    Raises:
        PipelineError: A stage fails.
    """
    recipe = load_recipe(trial.config, overrides=trial.overrides)
    with contextlib.redirect_stderr(io.StringIO()):  # log.csv keeps the epochs
        for stage in ("train", "eval"):
            run_stages(recipe, stage=stage, device=trial.device, resume=True)
    folder = recipe.output.folder
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    model, _ = load_network(folder / "best.safetensors")
    metrics["parameters"] = sum(value.numel() for value in model.parameters())
    metrics["seconds"] = _seconds(folder / "log.csv")
    return metrics


def _seconds(log: Path) -> float | None:
    """Sum over the epochs; it outlives interruptions, as a clock would not."""
    with log.open(encoding="utf-8", newline="") as handle:
        values = [row.get("seconds") for row in csv.DictReader(handle)]
    return sum(map(float, filter(None, values))) if all(values) else None
