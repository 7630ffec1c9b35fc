"""Measure that the length of a file does not matter to the memory that it takes.

A short and a long test video are made, each is extracted, or looked at by a detector, in a fresh
process, and the resident memory of that process and of all its children is read from /proc while it
runs. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from extractors.media.ffmpeg import ffmpeg_binary
from extractors.media.video import ReaderChoice
from extractors.registry import BackboneRow
from extractors.spec import Backbone, BackboneSpec, Encoded, EncoderSpec, Modality, WeightsFile
from extractors.storage.store import FeatureStore
from extractors.windows import WindowGrid
from pipeline.core.errors import EnvironmentFault
from workflows.bench.record import Figure
from workflows.extraction.run import extract

SAMPLE_S = 0.05
BOUND = 1.1  # the long file's share of the short one's memory that is promised
WITHOUT_NETS = "none"


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """One file and what it took.

    Attributes:
        media_seconds: Length of the file.
        steps: Steps that came out.
        reader: Video reader: the one that was used, or that was asked for where a detector ran.
        peak_bytes: Largest resident memory of the process and its children together.
        wall_seconds: How long it took.
    """

    media_seconds: float
    steps: int
    reader: str
    peak_bytes: int
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Both files side by side.

    Attributes:
        task: What was done with them.
        short: The short file.
        long: The long file.
    """

    task: str
    short: MemoryRun
    long: MemoryRun

    @property
    def ratio(self) -> float:
        """Memory of the long file over that of the short one."""
        return self.long.peak_bytes / self.short.peak_bytes

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = [Figure("long file over short file", self.ratio, "1")]
        for name, run in (("short", self.short), ("long", self.long)):
            figures.append(Figure(f"{name} file, peak memory", run.peak_bytes / 1e6, "MB"))
            figures.append(Figure(f"{name} file, wall", run.wall_seconds, "s"))
            figures.append(Figure(f"{name} file, steps", run.steps, "1", "neither"))
        return figures

    def format_table(self) -> str:
        """Both runs as text."""
        lines = [f"{self.task}, process and children together", ""]
        lines.append(f"{'video s':>9} {'steps':>7} {'peak MB':>8} {'wall s':>8}  reader")
        lines += [
            f"{run.media_seconds:>9.1f} {run.steps:>7} {run.peak_bytes / 1e6:>8.1f} "
            f"{run.wall_seconds:>8.1f}  {run.reader}"
            for run in (self.short, self.long)
        ]
        verdict = "within" if self.ratio <= BOUND else "NOT within"
        lines.append(f"\nratio {self.ratio:.3f}, {verdict} the bound of {BOUND:g}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """What is done with a file while its memory is watched.

    Attributes:
        backbone: Name of the nets; ``none`` for mean colours and loudness in place of nets, which
            leaves the memory of reading and of windows alone.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.
        detect: Detect events instead of extracting features to a store.
        model: Detect with this checkpoint, whose backbone counts; None for the training-free
            detector.
    """

    backbone: str = "lite"
    reader: str = "auto"
    detect: bool = False
    model: Path | None = None

    def __str__(self) -> str:
        if self.model is not None:
            from model.checkpoint import read_card

            name = read_card(self.model).backbone.get("name")
            return f"detect with {self.model.name} on backbone {name}"
        return f"{'detect' if self.detect else 'extract'} with backbone {self.backbone}"


def measure_memory(task: MemoryTask, *, short: float = 120.0, long: float = 7200.0) -> MemoryReport:
    """Do the same with a short and a long video and compare the peaks of memory.

    Args:
        task: What to do.
        short: Seconds of the first video.
        long: Seconds of the second.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        EnvironmentFault: The system has no /proc, or a video cannot be made or worked on.
    """
    if not Path("/proc/self/statm").exists():
        raise EnvironmentFault("memory is measured on Linux only", hint="run it in a container")
    words = str(task)
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        runs = []
        for seconds in (short, long):
            path = Path(folder) / f"{seconds:g}s.mp4"
            make_small_video(path, seconds=seconds)
            runs.append(_run(path, task))
    return MemoryReport(words, *runs)


def make_small_video(path: Path, *, seconds: float, rate: int = 5) -> None:
    """Write a 64x48 test picture with a tone: hours of it take seconds to make.

    Raises:
        EnvironmentFault: ffmpeg could not make it.
    """
    command = [ffmpeg_binary(), "-nostdin", "-v", "error", "-y"]
    command += ["-f", "lavfi", "-i", f"testsrc2=s=64x48:r={rate}:d={seconds}"]
    command += ["-f", "lavfi", "-i", f"sine=f=440:r=16000:d={seconds}"]
    command += ["-pix_fmt", "yuv420p", "-preset", "ultrafast", "-b:a", "32k", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFault(f"ffmpeg could not make a test video: {done.stderr.strip()[-300:]}")


def _run(path: Path, task: MemoryTask) -> MemoryRun:
    """Work on a file in a process of its own and watch it."""
    model = "" if task.model is None else str(task.model.resolve())
    kind = "detect" if task.detect or model else "extract"
    command = [sys.executable, "-m", "workflows.bench.memory", kind, str(path)]
    command += [task.backbone, task.reader, model]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        peak = 0
        while child.poll() is None:
            peak = max(peak, tree_bytes(child.pid))
            time.sleep(SAMPLE_S)
        wall = time.perf_counter() - started
        assert child.stdout is not None
        answer = child.stdout.read()
        child.stdout.close()
        if child.returncode:
            complaints.seek(0)
            # A traceback ends with the error and its reason; what stands above is the way there.
            lines = complaints.read().decode("utf-8", "replace").split("\n")
            words = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
            raise EnvironmentFault(f"to {kind} {path.name} failed: {words}")
    told = json.loads(answer)
    return MemoryRun(told["media_seconds"], told["steps"], told["reader"], peak, wall)


def tree_bytes(process: int) -> int:
    """Resident memory of a process and all that descend from it; 0 where it is gone.

    Pages that two of them share count twice, so the sum is an upper bound.
    """
    total, waiting = 0, [process]
    page = os.sysconf("SC_PAGE_SIZE")
    while waiting:
        root = Path("/proc") / str(waiting.pop())
        try:
            total += int((root / "statm").read_text().split()[1]) * page
            for task in (root / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):  # ended between two looks
            continue
    return total


def _work_and_tell(kind: str, path: str, backbone: str, reader: str, model: str) -> None:
    """What the child process does: work on one file and describe the result."""
    work = _detect if kind == "detect" else _extract
    sys.stdout.write(json.dumps(work(path, backbone, reader, model)))


def _extract(path: str, backbone: str, reader: str, model: str) -> dict[str, Any]:
    nets = PLAIN if backbone == WITHOUT_NETS else backbone
    with tempfile.TemporaryDirectory(prefix="memory-store-") as folder:
        report = extract([path], folder, backbone=nets, reader=reader)
        (row,) = report.rows
        if row.outcome != "done":
            sys.exit(f"{row.outcome}: {row.reason}")
        readers = FeatureStore.open(folder).summary(row.id).readers
    return {"media_seconds": row.media_seconds, "steps": row.steps, "reader": readers["vision"]}


def _detect(path: str, backbone: str, reader: str, model: str) -> dict[str, Any]:
    from workflows.detection.run import (
        load_detector,  # torch would hide what plain extraction takes
    )

    detector = load_detector(
        model or None, backbone=backbone, device="cpu", reader=cast(ReaderChoice, reader)
    )
    found = detector(path)
    assert found.curves is not None
    return {"media_seconds": found.duration, "steps": len(found.curves.times), "reader": reader}


class _MeanColour:
    """Mean red, green and blue of each frame, at the size that real nets ask for."""

    class_names: tuple[str, ...] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 224, 224

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        return Encoded(frames.mean(axis=(1, 2), dtype=np.float32), None)


class _Loudness:
    """Root mean square of each window."""

    class_names: tuple[str, ...] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        return Encoded(np.sqrt((windows**2).mean(axis=1, keepdims=True)), None)


def _plain_spec(modality: Modality, dim: int) -> EncoderSpec:
    weights = WeightsFile("none", 0, "0" * 64, "Apache-2.0", "none")
    return EncoderSpec(
        name=f"plain-{modality}",
        modality=modality,
        dim=dim,
        classes=0,
        unit="frame" if modality == "vision" else "window",
        preprocessing="none",
        normalised=False,
        weights=weights,
    )


def _load_plain(*, device: str, threads: int | None, weights_dir: Path | None = None) -> Backbone:
    spec = PLAIN.spec
    return Backbone(spec, _MeanColour(spec.vision), _Loudness(spec.audio))


PLAIN = BackboneRow(
    BackboneSpec("plain", WindowGrid(), _plain_spec("vision", 3), _plain_spec("audio", 1)),
    _load_plain,
)

if __name__ == "__main__":
    _work_and_tell(*sys.argv[1:])
