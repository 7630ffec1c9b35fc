"""Measure extraction on this machine: decode alone, model alone, and the whole of it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extractors.media.audio import open_audio
from extractors.media.ffmpeg import ffmpeg_binary
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice, open_video
from extractors.registry import load_backbone
from extractors.spec import Backbone
from extractors.stream import FeatureStream
from pipeline.core.errors import EnvironmentFault, MediaError

BATCH = 32  # frames or windows per call of an encoder when it is measured alone


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one part took.

    Attributes:
        part: What was measured.
        wall: Seconds on the clock.
        cpu: Seconds of all cores, finished child processes included.
        media: Seconds of video that went through.
    """

    part: str
    wall: float
    cpu: float
    media: float

    @property
    def wall_per_second(self) -> float:
        """Clock seconds per second of video."""
        return self.wall / self.media

    @property
    def cpu_per_second(self) -> float:
        """Core seconds per second of video."""
        return self.cpu / self.media


@dataclass(slots=True)
class SpeedReport:
    """Timings of one file and what they were measured on."""

    file: str
    machine: str
    timings: list[Timing] = field(default_factory=list)

    def format_table(self) -> str:
        """The report as text: one row per part."""
        lines = [self.machine, self.file, ""]
        lines.append(f"{'part':<28} {'wall s':>8} {'CPU s':>8} {'wall s/s':>9} {'CPU s/s':>9}")
        lines += [
            f"{row.part:<28} {row.wall:>8.2f} {row.cpu:>8.2f} "
            f"{row.wall_per_second:>9.4f} {row.cpu_per_second:>9.4f}"
            for row in self.timings
        ]
        return "\n".join(lines)


def machine_line() -> str:
    """Processor, cores, Python, torch and commit, for the head of a benchmark."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    return (
        f"{os.cpu_count()} x {processor}, Python {platform.python_version()}, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads, commit {_commit()}"
    )


def measure_speed(path: Path, *, backbone: str = "lite", device: str = "auto") -> SpeedReport:
    """Time each part of the extraction of one file.

    Args:
        path: A media file.
        backbone: Name of the backbone.
        device: Where the encoders run.

    Raises:
        MediaError: The file cannot be read.
    """
    info = probe(path)
    media = _media_seconds(info)
    started = time.perf_counter()
    loaded = load_backbone(backbone, device=device)
    load = time.perf_counter() - started
    report = SpeedReport(
        f"{path.name}: {media:.1f} s, backbone {backbone} (loaded in {load:.2f} s)",
        machine_line(),
    )
    if info.video is not None:
        size = loaded.vision.frame_size(info.video.width, info.video.height)
        readers: tuple[ReaderChoice, ...] = ("decord", "ffmpeg")
        for reader in readers:
            with _timed(report, f"decode picture ({reader})", info):
                used = _drain_video(info, loaded, reader=reader, size=size)
            if used != reader:
                report.timings.pop()
        with _timed(report, "picture encoder alone", info):
            _encode_noise(loaded, info, size)
    if info.audio is not None:
        with _timed(report, "decode sound", info), open_audio(info) as sound:
            _drain(sound)
        with _timed(report, "sound encoder alone", info):
            _encode_silence(loaded, info)
    with _timed(report, "whole extraction", info):
        _drain(FeatureStream(info, loaded))
    return report


def make_test_video(
    path: Path, *, seconds: float, width: int = 640, height: int = 360, rate: int = 25
) -> None:
    """Write a moving test picture with a tone as H.264/AAC, for benchmarks.

    Raises:
        EnvironmentFault: ffmpeg could not make it.
    """
    command = [ffmpeg_binary(), "-nostdin", "-v", "error", "-y"]
    command += ["-f", "lavfi", "-i", f"testsrc2=s={width}x{height}:r={rate}:d={seconds}"]
    command += ["-f", "lavfi", "-i", f"sine=f=440:r=44100:d={seconds}"]
    command += ["-pix_fmt", "yuv420p", "-preset", "veryfast", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFault(f"ffmpeg could not make a test video: {done.stderr.strip()[-300:]}")


@contextmanager
def _timed(report: SpeedReport, part: str, info: MediaInfo) -> Iterator[None]:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield
    report.timings.append(
        Timing(part, time.perf_counter() - wall, _cpu_seconds() - cpu, _media_seconds(info))
    )


def _media_seconds(info: MediaInfo) -> float:
    """Length of the file.

    Raises:
        MediaError: The file does not say; a speed per second would mean nothing.
    """
    if info.duration is None:
        raise MediaError(info.path, "does not say how long it is", hint="measure another file")
    return info.duration


def _cpu_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _drain(blocks: Iterable[object]) -> None:
    for _ in blocks:
        pass


def _drain_video(
    info: MediaInfo, backbone: Backbone, *, reader: ReaderChoice, size: tuple[int, int]
) -> str:
    with open_video(info, fps=backbone.spec.grid.fps, size=size, reader=reader) as video:
        _drain(video)
        return video.reader


def _encode_noise(backbone: Backbone, info: MediaInfo, size: tuple[int, int]) -> None:
    """Run the picture encoder over as many frames as the file would give it."""
    grid = backbone.spec.grid
    count = grid.frame_count(_media_seconds(info))
    shape: tuple[int, ...] = (BATCH, size[1], size[0], 3)
    if backbone.spec.vision.unit == "window":
        count, shape = grid.steps(_media_seconds(info)), (BATCH, grid.window, *shape[1:])
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for first in range(0, count, BATCH):
        backbone.vision.embed(batch[: min(BATCH, count - first)])


def _encode_silence(backbone: Backbone, info: MediaInfo) -> None:
    grid = backbone.spec.grid
    batch = np.zeros((BATCH, grid.window_samples), dtype=np.float32)
    count = grid.steps(_media_seconds(info))
    for first in range(0, count, BATCH):
        backbone.audio.embed(batch[: min(BATCH, count - first)])


def _commit() -> str:
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
