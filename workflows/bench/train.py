"""Cost of a training step: seconds, peak memory and label assignment, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from model.assignment import assign_batch
from model.build import Network, build_network
from model.loco import LoCo
from model.points import make_points
from pipeline.core.errors import EnvironmentFault
from workflows.bench.data import CLASSES, ONE_PEACE_DIM, PlantedVideos, Sizes
from workflows.bench.machine import machine_line
from workflows.bench.record import Figure
from workflows.bench.stopwatch import Stopwatch, load_line, peak_bytes
from workflows.training.batch import Batch
from workflows.training.loop import train_step
from workflows.training.state import TrainSettings, start_training

REPEATS = 20  # of the label assignment, whose time is a few milliseconds
# Ways of training that are compared -> precision and compilation.
WAYS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "fp32": ("fp32", False),
        "bf16": ("bf16", False),
        "fp32 compiled": ("fp32", True),
        "bf16 compiled": ("bf16", True),
    }
)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What is measured.

    Attributes:
        videos: B.
        steps: T.
        iterations: Steps of training; the first also warms up.
        vision_dim: Cv.
        audio_dim: Ca.
        classes: K.
        channels: Width of the network.
        precision: ``fp32`` or ``bf16``.
        compile: Whether the network is compiled.
        threads: Of torch; 0 leaves them alone.
        method: A name of `model.build.METHODS`.
    """

    videos: int = 16
    steps: int = 256
    iterations: int = 3
    vision_dim: int = ONE_PEACE_DIM
    audio_dim: int = ONE_PEACE_DIM
    classes: int = CLASSES
    channels: int = 512
    precision: str = "fp32"
    compile: bool = False
    threads: int = 0
    method: str = "loco"


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one training step costs.

    Attributes:
        plan: What was measured.
        machine: Where.
        wall: Seconds on the clock of each step.
        cpu: Seconds of all cores of each step.
        peak: Largest resident memory of the whole process, in bytes.
        assignment: Seconds of one core for the label assignment of one batch; 0 for CLASP, which
            assigns nothing.
    """

    plan: StepPlan
    machine: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    peak: int
    assignment: float

    def figures(self) -> list[Figure]:
        """The report for machines; the first step also warms up and counts apart."""
        later = slice(1, None) if len(self.cpu) > 1 else slice(None)
        return [
            Figure("first step, CPU", self.cpu[0], "s"),
            Figure("step, CPU", _mean(self.cpu[later]), "s"),
            Figure("step, wall", _mean(self.wall[later]), "s"),
            Figure("peak memory", self.peak / 1e6, "MB"),
            Figure("label assignment of a batch, CPU", 1000 * self.assignment, "ms"),
        ]

    def format_table(self) -> str:
        """The report as text."""
        plan = self.plan
        lines = [
            self.machine,
            f"batch {plan.videos} x {plan.steps}, {plan.vision_dim} + {plan.audio_dim} values a "
            f"step, {plan.classes} classes, width {plan.channels}, {plan.method}, {plan.precision}"
            + (", compiled" if plan.compile else ""),
            "",
            f"{'step':>12} {'CPU s':>8} {'wall s':>8}",
        ]
        rows = zip(self.cpu, self.wall, strict=True)
        for number, (cpu, wall) in enumerate(rows, start=1):
            lines.append(f"{number:>12} {cpu:>8.2f} {wall:>8.2f}")
        lines.append("")
        lines.append(f"peak memory of the process {self.peak / 2**30:.2f} GiB")
        lines.append(f"label assignment of the batch {1000 * self.assignment:.1f} CPU ms")
        return "\n".join(lines)


def measure_step(plan: StepPlan) -> StepReport:
    """Train for a few steps in a fresh process, so that its memory is that of training alone.

    Raises:
        EnvironmentFault: The process failed.
    """
    command = [sys.executable, "-m", "workflows.bench.train", json.dumps(asdict(plan))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EnvironmentFault(
            f"the training step failed: {reason}",
            hint="a smaller --batch takes less memory",
        )
    told = json.loads(done.stdout)
    return StepReport(
        plan,
        told["machine"],
        tuple(told["wall"]),
        tuple(told["cpu"]),
        told["peak"],
        told["assignment"],
    )


def bench_settings(plan: StepPlan, **changes: Any) -> TrainSettings:
    """UnAV-100's way of training, for the size of the plan."""
    values: dict[str, Any] = {
        "lr": 1e-4,
        "min_lr": 1e-8,
        "weight_decay": 1e-4,
        "epochs": 45,
        "warmup_epochs": 5,
        "batch_size": plan.videos,
        "drop_last": True,
        "clip": 1.0,
        "ema": 0.999,
        "seed": 0,
        "crop": (0.9, 1.0),
        "keep": 0.5,
        "max_seq_len": plan.steps,
        "validate_every": 1,
        "precision": plan.precision,
        "compile": plan.compile,
    }
    return TrainSettings(**{**values, **changes})


def bench_model(plan: StepPlan) -> Network:
    """The plan's network with the recipes' parts at the plan's width, from fixed random weights."""
    torch.manual_seed(0)
    sizes = {
        "vision_dim": plan.vision_dim,
        "audio_dim": plan.audio_dim,
        "classes": plan.classes,
        "channels": plan.channels,
        "max_seq_len": plan.steps,
    }
    if plan.method == "loco":
        sizes["decoder_channels"] = plan.channels
    return build_network(plan.method, **sizes)


def measure_here(plan: StepPlan) -> dict[str, Any]:
    """The figures of `StepReport` from this process, as plain values."""
    if plan.threads:
        torch.set_num_threads(plan.threads)
    settings, model = bench_settings(plan), bench_model(plan)
    sizes = Sizes(plan.vision_dim, plan.audio_dim, plan.classes)
    batch = PlantedVideos(sizes).batch([plan.steps] * plan.videos)
    state = start_training(model.train(), settings)
    watches = []
    for _ in range(plan.iterations):
        with Stopwatch() as watch:
            train_step(state, batch, settings)
        watches.append(watch)
    peak = peak_bytes()
    return {
        "machine": f"{machine_line()}, {load_line()}",
        "wall": [watch.wall for watch in watches],
        "cpu": [watch.cpu for watch in watches],
        "peak": peak,
        "assignment": _assignment_seconds(batch, plan, levels=model.levels)
        if isinstance(model, LoCo)
        else 0.0,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _assignment_seconds(batch: Batch, plan: StepPlan, *, levels: int) -> float:
    points = make_points([-(-plan.steps // 2**level) for level in range(levels)])
    with Stopwatch() as watch:
        for _ in range(REPEATS):
            assign_batch(points, batch.segments, batch.labels, classes=plan.classes)
    return watch.cpu / REPEATS


def _main(plan: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(measure_here(StepPlan(**plan))))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
