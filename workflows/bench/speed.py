"""Measure extraction on this machine: decode alone, model alone, writing alone, and the whole."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from extractors.features import Rows, Summary
from extractors.media.audio import open_audio
from extractors.media.ffmpeg import ffmpeg_binary
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice, open_video
from extractors.registry import load_backbone
from extractors.shapes import row_bytes
from extractors.spec import Backbone
from extractors.storage.store import FeatureStore
from extractors.stream import FeatureStream
from pipeline.core.errors import EnvironmentFault, MediaError
from workflows.bench.machine import machine_line
from workflows.bench.memory import tree_bytes
from workflows.bench.noise import noise_rows, noise_sources
from workflows.bench.record import Figure

READERS: tuple[ReaderChoice, ...] = ("decord", "ffmpeg")
WARM_UP = 32  # frames: kernels are chosen and memory is reserved before anything is timed
LOOK_S = 0.02  # between two looks at the memory
TARGET = 1.3  # whole extraction over the slower of decoding and model
DECODE, MODEL, WRITE, WHOLE = "decode alone", "model alone", "write alone", "whole extraction"


@dataclass(frozen=True, slots=True)
class Timing:
    """One part of the work.

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
    """Timings of one file and what they were measured on.

    Attributes:
        file: The file and the nets.
        machine: Where.
        timings: One for each part; the four that all others are details of are always there.
        load: Seconds that loading the nets took.
        peak: Largest resident memory, in bytes, of the process and its decoders while they worked
            on the whole; None where it cannot be read.
        device_peak: The same of a CUDA device; None without one.
        row_bytes: What one step takes in the store.
        steps: Steps of the file.
        size: Bytes of the file.
    """

    file: str
    machine: str
    timings: list[Timing] = field(default_factory=list)
    load: float = 0.0
    peak: int | None = None
    device_peak: int | None = None
    row_bytes: int = 0
    steps: int = 0
    size: int = 0

    def timing(self, part: str) -> Timing:
        """Timing of one part.

        Raises:
            KeyError: There is none.
        """
        for row in self.timings:
            if row.part == part:
                return row
        raise KeyError(part)

    @property
    def speed(self) -> float:
        """Seconds of video that the whole extraction does in a second."""
        return 1 / self.timing(WHOLE).wall_per_second

    @property
    def overlap(self) -> float:
        """The whole over the slower of decoding alone and the model alone, on the clock."""
        slower = max(self.timing(DECODE).wall, self.timing(MODEL).wall)
        return self.timing(WHOLE).wall / slower

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = []
        for row in self.timings:
            figures.append(Figure(f"{row.part}, wall", row.wall_per_second, "s/s"))
            figures.append(Figure(f"{row.part}, CPU", row.cpu_per_second, "s/s"))
        figures += [
            Figure("speed", self.speed, "x real time", "higher"),
            Figure("whole over slower part", self.overlap, "1"),
            Figure("loading", self.load, "s"),
            Figure("store per second of video", self._stored, "B/s"),
            Figure("source per second of video", self._source, "B/s", "neither"),
        ]
        if self.peak is not None:
            figures.append(Figure("peak memory", self.peak / 1e6, "MB"))
        if self.device_peak is not None:
            figures.append(Figure("peak memory of the device", self.device_peak / 1e6, "MB"))
        return figures

    def format_table(self) -> str:
        """The report as text: one row per part, then the sums."""
        lines = [self.machine, self.file, ""]
        lines.append(f"{'part':<28} {'wall s':>8} {'CPU s':>8} {'wall s/s':>9} {'CPU s/s':>9}")
        lines += [
            f"{row.part:<28} {row.wall:>8.2f} {row.cpu:>8.2f} "
            f"{row.wall_per_second:>9.4f} {row.cpu_per_second:>9.4f}"
            for row in self.timings
        ]
        verdict = "within" if self.overlap <= TARGET else "NOT within"
        lines += [
            "",
            f"{self.speed:.2f} x real time",
            f"whole over the slower of decode and model: {self.overlap:.3f}, {verdict} {TARGET:g}",
            f"store: {self._stored:,.0f} bytes a second of video",
        ]
        if self.peak is not None:
            lines.append(f"peak memory, process and decoders: {self.peak / 1e6:.0f} MB")
        if self.device_peak is not None:
            lines.append(f"peak memory of the device: {self.device_peak / 1e6:.0f} MB")
        return "\n".join(lines)

    @property
    def _stored(self) -> float:
        return self.row_bytes * self.steps / self.timing(WHOLE).media

    @property
    def _source(self) -> float:
        return self.size / self.timing(WHOLE).media


def measure_speed(path: Path, *, backbone: str = "lite", device: str = "auto") -> SpeedReport:
    """Time each part of the extraction of one file, and all of it into a store.

    "Decode alone" reads picture and sound at once, as extraction does, and throws them away; "model
    alone" puts noise through the same windows and batches; "write alone" stores as many rows.

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
    _warm_up(loaded, info)
    report = SpeedReport(
        f"{path.name}: {media:.1f} s, backbone {backbone} (loaded in {load:.2f} s)",
        machine_line(),
        load=load,
        row_bytes=row_bytes(loaded.spec),
        size=info.size_bytes,
    )
    _measure_whole(report, info, loaded)  # first: what the parts leave behind is no part of it
    with _timed(report, DECODE, info):
        _decode_both(info, loaded)
    with _timed(report, MODEL, info):
        _drain(FeatureStream(info, loaded, sources=noise_sources(info)))
    _measure_write(report, info, loaded)
    _measure_details(report, info, loaded)
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


def _measure_whole(report: SpeedReport, info: MediaInfo, backbone: Backbone) -> None:
    """From the file into a store, while the memory is watched."""
    on_gpu = _reset_device_peak()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _peak_memory(report):
        store = FeatureStore.create(Path(folder) / "store", backbone.spec)
        stream = FeatureStream(info, backbone)
        with _timed(report, WHOLE, info):
            _store_rows(store, stream, stream)
        report.steps = stream.summary.steps
    if on_gpu:
        import torch

        report.device_peak = torch.cuda.max_memory_allocated()


def _measure_write(report: SpeedReport, info: MediaInfo, backbone: Backbone) -> None:
    summary = Summary(_media_seconds(info), report.steps, {}, {}, "done")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = FeatureStore.create(Path(folder) / "store", backbone.spec)
        rows = noise_rows(backbone.spec, report.steps)
        with _timed(report, WRITE, info):
            _store_rows(store, rows, summary)


def _measure_details(report: SpeedReport, info: MediaInfo, backbone: Backbone) -> None:
    """Each reader and each net by itself."""
    if info.video is not None:
        for reader in READERS:
            with _timed(report, f"decode picture ({reader})", info):
                used = _drain_picture(info, backbone, reader=reader)
            if used != reader:
                report.timings.pop()
        only = replace(info, audio=None)
        with _timed(report, "picture encoder alone", info):
            _drain(FeatureStream(only, backbone, sources=noise_sources(only)))
    if info.audio is not None:
        with _timed(report, "decode sound", info):
            _drain_sound(info, backbone)
        only = replace(info, video=None)
        with _timed(report, "sound encoder alone", info):
            _drain(FeatureStream(only, backbone, sources=noise_sources(only)))


def _store_rows(
    store: FeatureStore, rows: Iterable[Rows], summary: Summary | FeatureStream
) -> None:
    with store.writer("video") as writer:
        for chunk in rows:
            writer.append(chunk)
        writer.finish(summary.summary if isinstance(summary, FeatureStream) else summary)


def _warm_up(backbone: Backbone, info: MediaInfo) -> None:
    grid = backbone.spec.grid
    short = replace(info, duration=(WARM_UP + grid.window) / float(grid.fps))
    _drain(FeatureStream(short, backbone, sources=noise_sources(short)))


def _decode_both(info: MediaInfo, backbone: Backbone) -> None:
    with ThreadPoolExecutor(1) as pool:
        sound = pool.submit(_drain_sound, info, backbone) if info.audio is not None else None
        if info.video is not None:
            _drain_picture(info, backbone, reader="auto")
        if sound is not None:
            sound.result()


def _drain_picture(info: MediaInfo, backbone: Backbone, *, reader: ReaderChoice) -> str:
    assert info.video is not None
    size = backbone.vision.frame_size(info.video.width, info.video.height)
    try:
        with open_video(info, fps=backbone.spec.grid.fps, size=size, reader=reader) as video:
            _drain(video)
            return video.reader
    except MediaError:
        if reader != "decord":
            raise
        return ""  # decord cannot read every file


def _drain_sound(info: MediaInfo, backbone: Backbone) -> None:
    with open_audio(info, sample_rate=backbone.spec.grid.sample_rate) as sound:
        _drain(sound)


def _drain(blocks: Iterable[object]) -> None:
    for _ in blocks:
        pass


@contextmanager
def _timed(report: SpeedReport, part: str, info: MediaInfo) -> Iterator[None]:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield
    report.timings.append(
        Timing(part, time.perf_counter() - wall, _cpu_seconds() - cpu, _media_seconds(info))
    )


@contextmanager
def _peak_memory(report: SpeedReport) -> Iterator[None]:
    """Watch this process and its children from a thread."""
    done, own = threading.Event(), os.getpid()
    peaks = [tree_bytes(own)]

    def watch() -> None:
        while not done.wait(LOOK_S):
            peaks.append(max(peaks.pop(), tree_bytes(own)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        report.peak = peaks[0] or None


def _reset_device_peak() -> bool:
    import torch

    if not torch.cuda.is_available():
        return False
    torch.cuda.reset_peak_memory_stats()
    return True


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
