"""Time of what turns predictions into a score: mean average precision, and Soft-NMS before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.softnms import multiclass_soft_nms
from pipeline.core.events import Event
from workflows.annotations import load_annotations
from workflows.bench.machine import machine_line
from workflows.bench.record import Figure
from workflows.bench.stopwatch import Stopwatch, load_line
from workflows.metrics import mean_average_precision

UNAV_TEST_VIDEOS, UNAV_CLASSES = 2167, 100
RIGHT_CLASS = 0.4  # share of predictions that carry the class of an event of their video


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What one kind of work took.

    Attributes:
        title: What was done.
        machine: Where.
        cpu: Seconds of all cores, of each repeat.
        wall: Seconds on the clock, likewise.
        result: What came out.
    """

    title: str
    machine: str
    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    result: str

    def figures(self) -> list[Figure]:
        """The report for machines: the fastest run of each, which others disturbed least."""
        return [
            Figure("CPU", 1000 * min(self.cpu), "ms"),
            Figure("wall", 1000 * min(self.wall), "ms"),
            Figure("runs", len(self.cpu), "1", "neither"),
        ]

    def format_table(self) -> str:
        """The report as text."""
        lines = [self.machine, self.title, "", f"{'run':>6} {'CPU ms':>10} {'wall ms':>10}"]
        rows = zip(self.cpu, self.wall, strict=True)
        for number, (cpu, wall) in enumerate(rows, start=1):
            lines.append(f"{number:>6} {1000 * cpu:>10.1f} {1000 * wall:>10.1f}")
        return "\n".join([*lines, "", self.result])


def measure_map(
    annotations: Path | None = None,
    *,
    subset: str = "test",
    per_video: int = 100,
    repeats: int = 3,
    videos: int = UNAV_TEST_VIDEOS,
) -> EvaluationReport:
    """Time the mAP of simulated predictions over the nine thresholds of UnAV-100.

    Args:
        annotations: ActivityNet-style file whose true events are used; without it, events are made
            up for as many videos and classes as UnAV-100's test split has.
        subset: Of that file.
        per_video: Predictions of each video.
        repeats: How often it is measured.
        videos: How many videos are made up.

    Raises:
        ConfigError: The annotations cannot be read.
    """
    truth, durations = read_truth(annotations, subset) if annotations else made_up_truth(videos)
    found = simulated_predictions(truth, durations, per_video=per_video)
    watches = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            scores = mean_average_precision(truth, found)
        watches.append(watch)
    source = f"the {subset} subset of {annotations.name}" if annotations else "made-up videos"
    return EvaluationReport(
        f"mAP of {sum(map(len, found.values()))} predictions on {len(truth)} videos with "
        f"{sum(map(len, truth.values()))} events: {source}",
        f"{machine_line()}, {load_line()}",
        tuple(watch.cpu for watch in watches),
        tuple(watch.wall for watch in watches),
        f"average mAP {100 * scores.average:.2f} % (predictions are simulated: it says nothing "
        "of a model)",
    )


def measure_softnms(
    *,
    candidates: int = 12_000,
    classes: int = UNAV_CLASSES,
    max_total: int = 100,
    repeats: int = 5,
) -> EvaluationReport:
    """Time multi-class Soft-NMS on one core.

    Args:
        candidates: Number of intervals.
        classes: Number of classes.
        max_total: How many are kept of all; UnAV keeps 100.
        repeats: How often it is measured.
    """
    segments, scores, labels = random_candidates(candidates, classes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    watches = []
    try:
        for _ in range(repeats):
            with Stopwatch() as watch:
                kept, _ = multiclass_soft_nms(segments, scores, labels, max_total=max_total)
            watches.append(watch)
    finally:
        torch.set_num_threads(threads)
    return EvaluationReport(
        f"Soft-NMS of {candidates} candidates in {classes} classes, one core",
        f"{machine_line()}, {load_line()}",
        tuple(watch.cpu for watch in watches),
        tuple(watch.wall for watch in watches),
        f"{len(kept)} kept, of at most {max_total}",
    )


def random_candidates(count: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals (N, 2) in steps, scores (N,) and class numbers (N,), always the same."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(count, generator=generator) * 224
    length = torch.rand(count, generator=generator) * 40
    segments = torch.stack([start, start + length], dim=1)
    scores = torch.rand(count, generator=generator)
    return segments, scores, torch.randint(classes, (count,), generator=generator)


def simulated_predictions(
    truth: Mapping[str, Sequence[Event]],
    durations: Mapping[str, float],
    *,
    per_video: int,
    seed: int = 0,
) -> dict[str, list[Event]]:
    """True events with moved ends, most of them of a wrong class, with random scores."""
    rng = np.random.default_rng(seed)
    classes = sorted({event.label for events in truth.values() for event in events})
    found = {}
    for video, events in truth.items():
        chosen = rng.integers(max(1, len(events)), size=per_video)
        moves = rng.normal(0.0, 2.0, (per_video, 2))
        right = rng.random(per_video) < RIGHT_CLASS
        others, scores = rng.integers(len(classes), size=per_video), rng.random(per_video)
        rows = []
        for number in range(per_video):
            event = events[chosen[number]] if events else Event(0.0, durations[video], "", 1.0)
            ends = np.sort(np.clip((event.start, event.end) + moves[number], 0, durations[video]))
            label = event.label if right[number] and events else classes[others[number]]
            rows.append(Event(float(ends[0]), float(ends[1]), label, float(scores[number])))
        found[video] = rows
    return found


def made_up_truth(videos: int) -> tuple[dict[str, list[Event]], dict[str, float]]:
    """Events and durations of made-up videos, as many and as long as UnAV-100 might have."""
    rng = np.random.default_rng(1)
    truth = {}
    for number in range(videos):
        rows = []
        for _ in range(rng.integers(1, 6)):
            start = float(rng.uniform(0, 38))
            end = start + float(min(60.0 - start, 1.0 + rng.exponential(13.0)))
            rows.append(Event(start, end, f"class {rng.integers(UNAV_CLASSES):03d}", 1.0))
        truth[f"video {number:04d}"] = rows
    return truth, dict.fromkeys(truth, 60.0)


def read_truth(annotations: Path, subset: str) -> tuple[dict[str, list[Event]], dict[str, float]]:
    """Events and durations in seconds of the videos of a subset, by id; bad rows are left out."""
    videos = load_annotations(annotations, bad_rows="drop").subset(subset)
    truth = {id: list(labels.events) for id, labels in videos.items()}
    ends = {id: max((event.end for event in events), default=1.0) for id, events in truth.items()}
    return truth, {id: labels.duration or ends[id] for id, labels in videos.items()}
