"""Time of an epoch of UnAV-100's size, measured on a few of its iterations. Meant for a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from pipeline.core.errors import UsageError
from workflows.bench.data import VIDEOS, PlantedVideos, Sizes, lengths_like_unav100
from workflows.bench.machine import machine_line
from workflows.bench.record import Figure
from workflows.bench.stopwatch import Stopwatch, load_line, peak_bytes
from workflows.bench.train import WAYS, StepPlan, bench_model, bench_settings
from workflows.training.batch import Batch
from workflows.training.loop import train_step
from workflows.training.state import start_training

WARM_UP = 3  # iterations that are not counted: memory is reserved, kernels are chosen or compiled
KEPT = 8  # different batches that are shown in turn


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One way of training.

    Attributes:
        name: A key of `workflows.bench.train.WAYS`.
        iteration: Clock seconds of one iteration, mean of those that count.
        epoch: Seconds of an epoch: ``iteration`` times the iterations of one.
        peak: Largest memory in bytes: of the device where it has its own, else of the process.
        loss: Of the last iteration.
    """

    name: str
    iteration: float
    epoch: float
    peak: int
    loss: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    """All ways on one device."""

    machine: str
    title: str
    rows: tuple[EpochRow, ...]

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = []
        for row in self.rows:
            figures.append(Figure(f"{row.name}, iteration", row.iteration, "s"))
            figures.append(Figure(f"{row.name}, epoch", row.epoch, "s"))
            figures.append(Figure(f"{row.name}, peak memory", row.peak / 1e6, "MB"))
            figures.append(Figure(f"{row.name}, last loss", row.loss, "1", "neither"))
        return figures

    def format_table(self) -> str:
        """The report as text."""
        lines = [self.machine, self.title, ""]
        lines.append(f"{'':<15} {'s/iteration':>12} {'s/epoch':>9} {'peak GiB':>9} {'loss':>9}")
        lines += [
            f"{row.name:<15} {row.iteration:>12.4f} {row.epoch:>9.1f} {row.peak / 2**30:>9.2f} "
            f"{row.loss:>9.4f}"
            for row in self.rows
        ]
        return "\n".join(lines)


def measure_epoch(
    *,
    device: str = "cuda",
    iterations: int = 30,
    videos: int = VIDEOS,
    ways: Sequence[str] = tuple(WAYS),
    plan: StepPlan | None = None,
) -> EpochReport:
    """Train for a few iterations on made-up videos of UnAV-100's lengths.

    The batches lie in the device's memory: what is measured is the training step. Whether loading
    keeps up is the subject of `workflows.bench.loading`.

    Args:
        device: Where to train.
        iterations: That count, after `WARM_UP` others.
        videos: Videos of an epoch.
        ways: Keys of `workflows.bench.train.WAYS`.
        plan: Sizes; the paper's network and batch with ONE-PEACE's dimensions when omitted.

    Raises:
        UsageError: There are not enough videos for one batch, or no iterations.
        EnvironmentFault: A way compiles and there is no compiler.
    """
    plan = plan or StepPlan()
    per_epoch = videos // plan.videos  # the last, short batch is left out, as in the recipes
    if per_epoch < 1 or iterations < 1:
        raise UsageError(
            f"{videos} videos in batches of {plan.videos} and {iterations} iterations are nothing "
            "to measure",
            hint="take at least one batch and one iteration",
        )
    place = torch.device(device)
    batches = _batches(plan, videos, place)
    rows = []
    for name in ways:
        precision, compile = WAYS[name]
        chosen = replace(plan, precision=precision, compile=compile)
        iteration, peak, loss = _train(chosen, batches, iterations, device=place)
        rows.append(EpochRow(name, iteration, iteration * per_epoch, peak, loss))
    title = (
        f"{videos} videos, batch {plan.videos} x up to {plan.steps}, {per_epoch} iterations an "
        f"epoch, {plan.vision_dim} + {plan.audio_dim} values a step, width {plan.channels}, "
        f"on {_device_name(place)}; {iterations} iterations measured"
    )
    return EpochReport(f"{machine_line()}, {load_line()}", title, tuple(rows))


def _batches(plan: StepPlan, videos: int, device: torch.device) -> list[Batch]:
    """The first batches of an epoch, padded to the plan's length: compiled and not get the same."""
    maker = PlantedVideos(Sizes(plan.vision_dim, plan.audio_dim, plan.classes))
    lengths = [min(length, plan.steps) for length in lengths_like_unav100(videos)]
    starts = islice(range(0, videos - plan.videos + 1, plan.videos), KEPT)
    return [
        maker.batch(lengths[first : first + plan.videos], steps=plan.steps).to(device)
        for first in starts
    ]


def _train(
    plan: StepPlan, batches: Sequence[Batch], iterations: int, *, device: torch.device
) -> tuple[float, int, float]:
    """Seconds of an iteration, peak memory, last loss."""
    settings = bench_settings(plan)
    state = start_training(bench_model(plan).to(device).train(), settings)
    for number in range(WARM_UP):
        terms = train_step(state, batches[number % len(batches)], settings)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    with Stopwatch() as watch:
        for number in range(iterations):
            terms = train_step(state, batches[number % len(batches)], settings)
        if on_gpu:
            torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else peak_bytes()
    return watch.wall / iterations, peak, terms["loss"]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
