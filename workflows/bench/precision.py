"""Whether bfloat16 and compilation learn what float32 learns: losses, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from model.loco import LoCo
from workflows.bench.data import PlantedVideos, Sizes
from workflows.bench.machine import machine_line
from workflows.bench.record import Figure
from workflows.bench.stopwatch import Stopwatch, load_line
from workflows.bench.train import WAYS, StepPlan, bench_settings
from workflows.training.batch import Batch
from workflows.training.loop import learning_rate, train_step
from workflows.training.state import start_training

BATCHES = 8  # that are shown in turn
WINDOW = 10  # losses whose mean is one point of the smoothed curve


@dataclass(frozen=True, slots=True)
class LossCurve:
    """One way of training.

    Attributes:
        name: A key of `workflows.bench.train.WAYS`.
        losses: Of each iteration.
        seconds: Clock seconds of an iteration, without the first two, which compile.
    """

    name: str
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """Curves of the same training, the first one being float32 without compilation."""

    machine: str
    title: str
    curves: tuple[LossCurve, ...]

    def deviation(self, curve: LossCurve, *, window: int = 1) -> float:
        """Largest difference from float32 relative to it, of means over ``window`` iterations."""
        ours, theirs = (_means(entry.losses, window) for entry in (curve, self.curves[0]))
        return float(((ours - theirs) / theirs).abs().max())

    def figures(self) -> list[Figure]:
        """The report for machines: how far each way lies from the first, and how fast it is."""
        figures = []
        for curve in self.curves:
            figures.append(Figure(f"{curve.name}, iteration", curve.seconds, "s"))
            figures.append(Figure(f"{curve.name}, last loss", curve.losses[-1], "1", "neither"))
        for curve in self.curves[1:]:
            name = f"{curve.name}, deviation of means over {WINDOW}"
            figures.append(Figure(name, self.deviation(curve, window=WINDOW), "1"))
        return figures

    def format_table(self) -> str:
        """The report as text: a row for each iteration, then how far the curves lie apart."""
        names = "".join(f"{curve.name:>15}" for curve in self.curves)
        lines = [self.machine, self.title, "", f"{'iteration':>22}{names}"]
        for number, losses in enumerate(zip(*(c.losses for c in self.curves), strict=True)):
            lines.append(f"{number:>22}" + "".join(f"{value:>15.6f}" for value in losses))
        lines.append("")
        for title, window in (("largest deviation", 1), (f"of means over {WINDOW}", WINDOW)):
            values = "".join(f"{self.deviation(c, window=window):>15.2e}" for c in self.curves)
            lines.append(f"{title:>22}{values}")
        lines.append(
            f"{'s an iteration':>22}" + "".join(f"{c.seconds:>15.3f}" for c in self.curves)
        )
        return "\n".join(lines)


def measure_precision(
    ways: Sequence[str] = tuple(WAYS),
    *,
    iterations: int = 60,
    channels: int = 32,
    device: str = "cpu",
) -> PrecisionReport:
    """Train a small network on planted events in several ways, from the same start.

    Args:
        ways: Keys of `workflows.bench.train.WAYS`; float32 is always the first.
        iterations: Steps of each training.
        channels: Width of the network.
        device: Where to train.

    Raises:
        EnvironmentFault: A way compiles and there is no compiler.
    """
    plan = StepPlan(videos=8, steps=64, vision_dim=24, audio_dim=16, classes=5, channels=channels)
    place = torch.device(device)
    batches = planted_batches(plan, device=place)
    chosen = ["fp32", *(name for name in ways if name != "fp32")]
    curves = []
    for name in chosen:
        precision, compile = WAYS[name]
        curves.append(
            _train(
                name,
                replace(plan, precision=precision, compile=compile, iterations=iterations),
                batches,
                device=place,
            )
        )
    title = (
        f"{iterations} iterations of LoCo at width {channels}, batch {plan.videos} x "
        f"{plan.steps}, on {device}"
    )
    return PrecisionReport(f"{machine_line()}, {load_line()}", title, tuple(curves))


def planted_batches(plan: StepPlan, *, device: torch.device) -> list[Batch]:
    """Batches of unlike lengths, padded to the plan's: a compiled network takes one shape."""
    videos = PlantedVideos(Sizes(plan.vision_dim, plan.audio_dim, plan.classes))
    lengths = [plan.steps - 3 * (number % 5) for number in range(plan.videos)]
    return [videos.batch(lengths, steps=plan.steps).to(device) for _ in range(BATCHES)]


def _train(
    name: str, plan: StepPlan, batches: Sequence[Batch], *, device: torch.device
) -> LossCurve:
    settings = bench_settings(plan, lr=1e-3, epochs=plan.iterations, warmup_epochs=2)
    torch.manual_seed(0)
    model = LoCo(
        vision_dim=plan.vision_dim,
        audio_dim=plan.audio_dim,
        classes=plan.classes,
        channels=plan.channels,
        decoder_channels=plan.channels,
        unimodal_blocks=1,
        levels=3,
        max_seq_len=plan.steps,
        normaliser=20.0,
    )
    state = start_training(model.to(device).train(), settings)
    torch.manual_seed(1)  # drop path
    losses, seconds = [], []
    for iteration in range(plan.iterations):
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(iteration, settings, per_epoch=1)
        with Stopwatch() as watch:
            terms = train_step(state, batches[iteration % len(batches)], settings)
        state.iteration += 1
        losses.append(terms["loss"])
        seconds.append(watch.wall)
    return LossCurve(name, tuple(losses), sum(seconds[2:]) / max(1, len(seconds) - 2))


def _means(losses: Sequence[float], window: int) -> torch.Tensor:
    values = torch.tensor(losses, dtype=torch.float64)
    return values.unfold(0, min(window, len(losses)), 1).mean(1)
