"""Measure that the length of a file does not matter to the memory that extraction takes.

A short and a long test video are made, each is extracted in a fresh process, and the resident
memory of that process and of all its children is read from /proc while it runs. Linux only.
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

import numpy as np
from numpy.typing import NDArray

from extractors.media.ffmpeg import ffmpeg_binary
from extractors.registry import BackboneRow
from extractors.spec import Backbone, BackboneSpec, Encoded, EncoderSpec, Modality, WeightsFile
from extractors.windows import WindowGrid
from pipeline.core.errors import EnvironmentFault
from workflows.extract import extract

SAMPLE_S = 0.05
BOUND = 1.1  # the long file's share of the short one's memory that is promised
WITHOUT_NETS = "none"


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """One file and what its extraction took.

    Attributes:
        media_seconds: Length of the file.
        steps: Steps that came out.
        reader: Video reader that was used.
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
    """Both files side by side."""

    backbone: str
    short: MemoryRun
    long: MemoryRun

    @property
    def ratio(self) -> float:
        """Memory of the long file over that of the short one."""
        return self.long.peak_bytes / self.short.peak_bytes

    def format_table(self) -> str:
        """Both runs as text."""
        lines = [f"backbone {self.backbone}, process and children together", ""]
        lines.append(f"{'video s':>9} {'steps':>7} {'peak MB':>8} {'wall s':>8}  reader")
        lines += [
            f"{run.media_seconds:>9.1f} {run.steps:>7} {run.peak_bytes / 1e6:>8.1f} "
            f"{run.wall_seconds:>8.1f}  {run.reader}"
            for run in (self.short, self.long)
        ]
        verdict = "within" if self.ratio <= BOUND else "NOT within"
        lines.append(f"\nratio {self.ratio:.3f}, {verdict} the bound of {BOUND:g}")
        return "\n".join(lines)


def measure_memory(
    *, short: float = 120.0, long: float = 7200.0, backbone: str = "lite", reader: str = "auto"
) -> MemoryReport:
    """Extract a short and a long video and compare the peaks of memory.

    Args:
        short: Seconds of the first video.
        long: Seconds of the second.
        backbone: Name of the nets; ``none`` for mean colours and loudness in place of nets, which
            leaves the memory of reading and of windows alone.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.

    Raises:
        EnvironmentFault: The system has no /proc, or a video cannot be made or extracted.
    """
    if not Path("/proc/self/statm").exists():
        raise EnvironmentFault("memory is measured on Linux only", hint="run it in a container")
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        runs = []
        for seconds in (short, long):
            path = Path(folder) / f"{seconds:g}s.mp4"
            make_small_video(path, seconds=seconds)
            runs.append(_run(path, backbone=backbone, reader=reader))
    return MemoryReport(backbone, *runs)


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


def _run(path: Path, *, backbone: str, reader: str) -> MemoryRun:
    """Extract a file in a process of its own and watch it."""
    command = [sys.executable, "-m", "workflows.memory", str(path), backbone, reader]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=Path(__file__).parent.parent,
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
            words = complaints.read().decode("utf-8", "replace").strip()[-300:]
            raise EnvironmentFault(f"the extraction of {path.name} failed: {words}")
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


def _extract_and_tell(path: str, backbone: str, reader: str) -> None:
    """What the child process does: extract one file and describe the result."""
    from extractors.store import FeatureStore

    nets = PLAIN if backbone == WITHOUT_NETS else backbone
    with tempfile.TemporaryDirectory(prefix="memory-store-") as folder:
        report = extract([path], folder, backbone=nets, reader=reader)
        (row,) = report.rows
        if row.outcome != "done":
            sys.exit(f"{row.outcome}: {row.reason}")
        readers = FeatureStore.open(folder).summary(row.id).readers
    told = {"media_seconds": row.media_seconds, "steps": row.steps, "reader": readers["vision"]}
    sys.stdout.write(json.dumps(told))


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
    _extract_and_tell(*sys.argv[1:])
