"""How much of the time a GPU computes while videos are extracted with I3D RGB and VGGish.

Many files are extracted, several in flight, as `pipeline extract` does it. The share
counts from the first batch to the end of the last: what is left of it is a GPU that waits for
decoders, for pictures that are scaled, or for its next batch. Without a GPU, one can be made up
that takes a given time for a batch of 16 windows (`workflows.bench.busy_nets`); what it shows is
whether the processor keeps up.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from extractors.registry import BackboneRow
from pipeline.core.cores import core_count
from pipeline.core.errors import EnvironmentFault, UsageError
from workflows.bench.busy_nets import (
    ROWS,
    SPEC,
    Interval,
    WatchedNets,
    nets_made_up,
    nets_on_gpu,
)
from workflows.bench.machine import machine_line
from workflows.bench.record import Figure
from workflows.bench.speed import make_test_video
from workflows.bench.stopwatch import cpu_seconds
from workflows.bench.utilisation import Utilisation
from workflows.extraction.groups import choose_at_once
from workflows.extraction.run import extract

LENGTHS = (1.0, 0.7, 1.3, 0.85, 1.15)  # of videos, in turn; alike, they would end in step
TARGET = 0.9  # share of the time in which a GPU should compute, given enough cores


@dataclass(frozen=True, slots=True)
class BusyTask:
    """What is extracted, and where.

    Attributes:
        device: ``cuda``, with a number or without.
        batch_ms: Milliseconds for a batch of 16 windows of a device that is made up; None for the
            real one.
        videos: Number of them.
        seconds: Mean length.
        size: Width and height of each.
        at_once: Videos in flight; None for what extraction chooses on a GPU.
    """

    device: torch.device
    batch_ms: float | None = None
    videos: int = 48
    seconds: float = 60.0
    size: tuple[int, int] = (640, 360)
    at_once: int | None = None

    def __post_init__(self) -> None:
        if self.videos < 1 or self.seconds < 1:
            raise UsageError(f"{self.videos} videos of {self.seconds:g} s are too few")
        if self.batch_ms is None and self.device.type != "cuda":
            raise EnvironmentFault(
                f"how busy the device {str(self.device)!r} is cannot be measured",
                hint="run it on a GPU, or make one up with --batch-ms MILLISECONDS",
            )
        if self.batch_ms is not None and self.batch_ms <= 0:
            raise UsageError(f"a batch of {self.batch_ms:g} ms", hint="give more than 0")


@dataclass(frozen=True, slots=True)
class BusyReport:
    """What was measured.

    Attributes:
        machine: Where.
        device: The device in words.
        task: The videos.
        intervals: Seconds at which each batch began and ended on the device, in any order.
        wall: Seconds of the whole command, loading excepted.
        warm_up: Seconds until the first batch.
        cpu: Seconds of all cores, decoders included.
        media: Seconds of video.
        steps: Windows.
        utilisation: Share of the time in which the driver saw the GPU at work; None where it did
            not say.
    """

    machine: str
    device: str
    task: BusyTask
    intervals: Sequence[Interval]
    wall: float
    warm_up: float
    cpu: float
    media: float
    steps: int
    utilisation: float | None = None

    @property
    def busy(self) -> float:
        """Seconds in which the device was at a batch."""
        return covered(self.intervals)

    @property
    def span(self) -> float:
        """Seconds from the first batch to the end of the last."""
        return max(end for _, end in self.intervals) - min(begin for begin, _ in self.intervals)

    @property
    def share(self) -> float:
        """Share of `span` in which the device was busy."""
        return self.busy / self.span

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = [
            Figure("device busy", self.share, "1", "higher"),
            Figure("device busy, whole run", self.busy / self.wall, "1", "higher"),
            Figure("until the first batch", self.warm_up, "s"),
            Figure("windows", self.steps / self.span, "1/s", "higher"),
            Figure("speed", self.media / self.wall, "x real time", "higher"),
            Figure("batch", self.busy / len(self.intervals), "s", "neither"),
            Figure("cores in use", self.cpu / self.wall, "1", "neither"),
            Figure("beside the device, CPU", self.cpu / self.media, "s/s"),
        ]
        if self.utilisation is not None:
            figures.append(Figure("device busy, its driver", self.utilisation, "1", "higher"))
        return figures

    def format_table(self) -> str:
        """The report as text."""
        task, verdict = self.task, "over" if self.share > TARGET else "NOT over"
        width, height = task.size
        flying = "as many in flight as extraction chooses"
        if task.at_once is not None:
            flying = f"{task.at_once} in flight"
        lines = [
            self.machine,
            f"{self.device}; {SPEC.name}, weights at random",
            f"{task.videos} videos of {task.seconds:g} s in the mean, {width}x{height}, {flying}",
            "",
            f"busy from the first batch to the end of the last: {self.share:.1%} of "
            f"{self.span:.2f} s, {verdict} {TARGET:.0%}",
            f"busy in the whole run: {self.busy / self.wall:.1%} of {self.wall:.2f} s; first batch "
            f"after {self.warm_up:.2f} s",
        ]
        if self.utilisation is not None:
            lines.append(f"busy, as its driver says: {self.utilisation:.1%}")
        lines += [
            f"{len(self.intervals)} batches of {self.busy / len(self.intervals) * 1e3:.1f} ms; "
            f"{self.steps / self.span:.0f} windows/s, {self.media / self.wall:.1f} x real time",
            f"{self.cpu / self.wall:.1f} of {core_count()} cores in use, "
            f"{self.cpu / self.media:.3f} core seconds for a second of video",
        ]
        return "\n".join(lines)


def measure_busy(task: BusyTask) -> BusyReport:
    """Extract many videos and see how busy the device is.

    Raises:
        EnvironmentFault: There is no such device, or ffmpeg cannot make the videos.
    """
    if task.batch_ms is None:
        nets, words = nets_on_gpu(task.device), f"on {torch.cuda.get_device_name(task.device)}"
    else:
        nets = nets_made_up(task.batch_ms / 1e3)
        words = f"a made-up device that takes {task.batch_ms:g} ms for {ROWS} windows"
    with tempfile.TemporaryDirectory(prefix="busy-") as folder:
        clips = Path(folder) / "clips"
        clips.mkdir()
        _make_clips(clips, task)
        with Utilisation(task.device if task.batch_ms is None else None) as seen:
            return _measure(clips, Path(folder) / "feats", task, nets, words, seen)


def covered(intervals: Sequence[Interval]) -> float:
    """Length of what intervals cover together; where they overlap, it counts once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _measure(
    clips: Path, out: Path, task: BusyTask, nets: WatchedNets, words: str, seen: Utilisation
) -> BusyReport:
    row = BackboneRow(SPEC, lambda **_: nets.backbone)
    started, cpu = time.perf_counter(), cpu_seconds()
    at_once = choose_at_once(
        task.at_once, device="cuda", on_gpu=True, here=True, cores=core_count()
    )
    report = extract([clips], out, backbone=row, device=str(task.device), at_once=at_once)
    ended = time.perf_counter()
    if report.exit_code:
        raise EnvironmentFault(f"the videos could not be extracted:\n{report.format_table()}")
    first = nets.device.first_at()
    assert first is not None
    return BusyReport(
        machine_line(),
        words,
        task,
        nets.device.intervals(),
        wall=ended - started,
        warm_up=first - started,
        cpu=cpu_seconds() - cpu,
        media=report.media_seconds,
        steps=sum(row.steps for row in report.rows),
        utilisation=seen.mean(first, ended),
    )


def _make_clips(folder: Path, task: BusyTask) -> None:
    """Few files under many names: what they show makes no difference."""
    width, height = task.size
    for number in range(task.videos):
        name = folder / f"{number:03}.mp4"
        if number < len(LENGTHS):
            seconds = round(task.seconds * LENGTHS[number], 2)
            make_test_video(name, seconds=seconds, width=width, height=height)
        else:
            os.link(folder / f"{number % len(LENGTHS):03}.mp4", name)
