"""Whether training waits for its data: the same steps from a feature store and from memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from extractors.features import Summary
from extractors.registry import backbone_spec
from extractors.spec import BackboneSpec
from extractors.storage.store import FeatureStore
from pipeline.core.events import Event
from workflows.annotations import VideoLabels
from workflows.bench.data import PlantedVideos, Sizes, lengths_like_unav100
from workflows.bench.machine import machine_line
from workflows.bench.record import Figure
from workflows.bench.stopwatch import Stopwatch, load_line
from workflows.bench.train import StepPlan, bench_model, bench_settings
from workflows.training.batch import Batch
from workflows.training.dataset import SplitDataset
from workflows.training.loop import batches, train_step
from workflows.training.prefetch import prefetch
from workflows.training.state import TrainSettings, TrainState, start_training

LABELS = ("one", "two", "three")
BOUND = 1.05  # a step from the store may take so much of a step from memory
ROUNDS = 3  # the ways take turns, so that what else the machine does meets them alike


class Step(NamedTuple):
    """Seconds of one step: the whole of it, until its batch was there, and of all cores."""

    first: bool  # of its turn: it is not counted
    whole: float
    waiting: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Passage:
    """Median of the steps of one way to the data, without the first of each turn.

    Attributes:
        first: Seconds until the very first batch was there: once an epoch.
        step: Clock seconds of a step, waiting included.
        waiting: Of these, seconds until its batch was there.
        cpu: Seconds of all cores, the loading thread included.
    """

    first: float
    step: float
    waiting: float
    cpu: float


@dataclass(frozen=True, slots=True)
class LoadingRow:
    """One width of the network.

    Attributes:
        channels: Width.
        memory: Batches that were made before.
        plain: Batches from the store, made when they are needed.
        ahead: Batches from the store, made by `prefetch`: what training does.
    """

    channels: int
    memory: Passage
    plain: Passage
    ahead: Passage

    @property
    def ratio(self) -> float:
        """A step with batches made ahead over the same step without its waiting.

        Both come from the same seconds, so that it holds on a busy machine, too; what the loading
        thread takes from the cores of the step it does not see.
        """
        return self.ahead.step / (self.ahead.step - self.ahead.waiting)

    @property
    def against_memory(self) -> float:
        """A step with batches made ahead over a step with batches from memory."""
        return self.ahead.step / self.memory.step


@dataclass(frozen=True, slots=True)
class LoadingReport:
    """All widths on one store."""

    machine: str
    title: str
    rows: tuple[LoadingRow, ...]

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = []
        for row in self.rows:
            for name, way in (("memory", row.memory), ("store", row.plain), ("ahead", row.ahead)):
                figures.append(Figure(f"width {row.channels}, {name}, step", way.step, "s"))
                figures.append(Figure(f"width {row.channels}, {name}, CPU", way.cpu, "s"))
            figures.append(Figure(f"width {row.channels}, over no waiting", row.ratio, "1"))
            figures.append(Figure(f"width {row.channels}, over memory", row.against_memory, "1"))
            figures.append(Figure(f"width {row.channels}, first batch", row.ahead.first, "s"))
        return figures

    def format_table(self) -> str:
        """The report as text."""
        lines = [
            self.machine,
            self.title,
            "seconds a step, medians; first: until the first batch of an epoch",
            "",
        ]
        lines.append(
            f"{'width':>6} {'data':<22} {'step':>9} {'waiting':>9} {'CPU':>9} {'first':>9}"
        )
        for row in self.rows:
            ways = (
                ("from memory", row.memory),
                ("store, on demand", row.plain),
                ("store, made ahead", row.ahead),
            )
            lines += [
                f"{row.channels:>6} {name:<22} {way.step:>9.3f} {way.waiting:>9.4f} "
                f"{way.cpu:>9.3f} {way.first:>9.3f}"
                for name, way in ways
            ]
            lines.append(
                f"{row.channels:>6} step over step without waiting {row.ratio:.3f}, over step "
                f"from memory {row.against_memory:.3f}; bound {BOUND:g}"
            )
        return "\n".join(lines)


def measure_loading(
    *,
    videos: int = 200,
    iterations: int = 8,
    widths: Iterable[int] = (64, 512),
    plan: StepPlan | None = None,
    spec: BackboneSpec | None = None,
    folder: Path | None = None,
) -> LoadingReport:
    """Make a store, and train from it and from memory.

    The store's files are pushed out of the system's cache once, where the system allows it: the
    first width's steps with batches made ahead, which come first, read from the disk.

    Args:
        videos: Videos of the store, as long as UnAV-100's.
        iterations: Steps of each way that count, in `ROUNDS` turns; one more comes before each.
        widths: Of the networks.
        plan: Sizes; the paper's batch with ONE-PEACE's dimensions when omitted.
        spec: Backbone of the store; ``onepeace`` when omitted. Its dimensions must be the plan's.
        folder: Where the store is made; a temporary folder when omitted.
    """
    plan = plan or StepPlan()
    spec = spec or backbone_spec("onepeace")
    with tempfile.TemporaryDirectory(prefix="loading-", dir=folder) as place:
        data, size = make_dataset(Path(place) / "store", spec, videos=videos)
        _push_out_of_cache(Path(place))
        rows = tuple(
            _measure_width(data, replace(plan, channels=width), iterations) for width in widths
        )
    title = (
        f"{videos} videos, {spec.vision.dim} + {spec.audio.dim} values a step, "
        f"{size / 1e6:.0f} MB, batches of {plan.videos}, {iterations} steps each way"
    )
    return LoadingReport(f"{machine_line()}, {load_line()}", title, rows)


def make_dataset(place: Path, spec: BackboneSpec, *, videos: int) -> tuple[SplitDataset, int]:
    """A packed store of planted videos, and the size of its files in bytes."""
    store = FeatureStore.create(place, spec)
    maker = PlantedVideos(Sizes(spec.vision.dim, spec.audio.dim, len(LABELS)))
    labels = {}
    for number, steps in enumerate(lengths_like_unav100(videos)):
        sample, id = maker.sample(steps), f"{number:05d}"
        duration = (steps - 1) * spec.grid.step_seconds + spec.grid.window_seconds
        with store.writer(id) as writer:
            writer.append(
                {
                    "vision": sample.vision.T.contiguous().numpy(),
                    "audio": sample.audio.T.contiguous().numpy(),
                    "vision_mask": sample.vision_mask.numpy(),
                    "audio_mask": sample.audio_mask.numpy(),
                }
            )
            coverage = {"vision": 1.0, "audio": 1.0}
            writer.finish(Summary(duration, steps, coverage, {}, "done"))
        ends = spec.grid.to_seconds(sample.segments.double().numpy())
        events = tuple(
            Event(max(0.0, float(start)), min(duration, float(end)), LABELS[label], 1.0)
            for (start, end), label in zip(ends, sample.labels.tolist(), strict=True)
        )
        labels[id] = VideoLabels("train", duration, events)
    store.pack()
    size = sum(path.stat().st_size for path in place.rglob("*.safetensors"))
    return SplitDataset(store, labels, LABELS, bad_rows="drop"), size


def _measure_width(data: SplitDataset, plan: StepPlan, iterations: int) -> LoadingRow:
    settings = bench_settings(plan)
    state = start_training(bench_model(plan).train(), settings)
    warm = PlantedVideos(Sizes(plan.vision_dim, plan.audio_dim, plan.classes), seed=1)
    train_step(state, warm.batch([plan.steps] * plan.videos), settings)
    turn = max(1, math.ceil(iterations / ROUNDS))
    memory, plain, ahead = [], [], []
    for _ in range(ROUNDS):
        stream = prefetch(_endless(data, settings))
        ahead += _run(state, stream, settings, turn)
        stream.close()
        plain += _run(state, _endless(data, settings), settings, turn)
        shown = list(islice(_endless(data, settings), turn + 1))
        memory += _run(state, iter(shown), settings, turn)
    return LoadingRow(plan.channels, *(_passage(steps) for steps in (memory, plain, ahead)))


def _push_out_of_cache(folder: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _endless(data: SplitDataset, settings: TrainSettings) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches(data, settings, epoch=epoch)
        epoch += 1


def _run(
    state: TrainState, stream: Iterator[Batch], settings: TrainSettings, iterations: int
) -> list[Step]:
    steps = []
    for number in range(iterations + 1):
        with Stopwatch() as all_of_it:
            with Stopwatch() as wait:
                batch = next(stream)
            train_step(state, batch, settings)
        steps.append(Step(number == 0, all_of_it.wall, wait.wall, all_of_it.cpu))
    return steps


def _passage(steps: Sequence[Step]) -> Passage:
    counted = [step for step in steps if not step.first]
    return Passage(
        next(step.waiting for step in steps if step.first),
        median(step.whole for step in counted),
        median(step.waiting for step in counted),
        median(step.cpu for step in counted),
    )
