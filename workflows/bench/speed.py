"""Measure extraction on this machine: decode alone, model alone, writing alone, and the whole."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
from pipeline.core.errors import EnvironmentFault, MediaError, UsageError
from workflows.bench.machine import machine_line
from workflows.bench.memory import tree_bytes
from workflows.bench.noise import noise_rows, noise_sources
from workflows.bench.rounds import Timing, time_rounds
from workflows.bench.speed_report import DECODE, MODEL, WHOLE, WRITE, SpeedReport

ROUNDS = 3
WARM_UP = 32  # frames: kernels are chosen and memory is reserved before anything is measured
LOOK_S = 0.02  # between two looks at the memory


@dataclass(slots=True)
class _Peak:
    """Largest resident memory that was seen; 0 where it cannot be read."""

    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """The parts of the extraction of one file.

    Attributes:
        info: The file.
        backbone: The nets.
        store: Where features are written, each time in place of those before.
    """

    info: MediaInfo
    backbone: Backbone
    store: FeatureStore

    def whole(self) -> Summary:
        """From the file into the store."""
        stream = FeatureStream(self.info, self.backbone)
        self._write(stream, lambda: stream.summary)
        return stream.summary

    def decode(self) -> None:
        """Picture and sound at once, as extraction reads them."""
        with ThreadPoolExecutor(1) as pool:
            sound = pool.submit(self.decode_sound) if self.info.audio is not None else None
            if self.info.video is not None:
                self.decode_picture("auto")
            if sound is not None:
                sound.result()

    def decode_picture(self, reader: ReaderChoice) -> None:
        """Frames of one reader, thrown away."""
        assert self.info.video is not None
        size = self.backbone.vision.frame_size(self.info.video.width, self.info.video.height)
        fps = self.backbone.spec.grid.fps
        with open_video(self.info, fps=fps, size=size, reader=reader) as video:
            _drain(video)

    def decode_sound(self) -> None:
        """Samples, thrown away."""
        sample_rate = self.backbone.spec.grid.sample_rate
        with open_audio(self.info, sample_rate=sample_rate) as sound:
            _drain(sound)

    def encode(self, info: MediaInfo) -> None:
        """Noise of the file's length through the nets, in the same windows and batches."""
        _drain(FeatureStream(info, self.backbone, sources=noise_sources(info)))

    def write(self, rows: Iterable[Rows], summary: Summary) -> None:
        """As many rows as the file has."""
        self._write(rows, lambda: summary)

    def _write(self, rows: Iterable[Rows], summary: Callable[[], Summary]) -> None:
        with self.store.writer("video") as writer:
            for chunk in rows:
                writer.append(chunk)
            writer.finish(summary())


def measure_speed(
    path: Path, *, backbone: str = "lite", device: str = "auto", rounds: int = ROUNDS
) -> SpeedReport:
    """Time each part of the extraction of one file, and all of it into a store.

    "Decode alone" reads picture and sound at once, as extraction does, and throws them away; "model
    alone" puts noise through the same windows and batches; "write alone" stores as many rows. These
    and the whole are timed in rounds (`workflows.bench.rounds`), details of them once.

    Args:
        path: A media file.
        backbone: Name of the backbone.
        device: Where the encoders run.
        rounds: How often the four parts are timed.

    Raises:
        MediaError: The file cannot be read.
        UsageError: There is no round.
    """
    if rounds < 1:
        raise UsageError(f"rounds={rounds}, must be 1 or more", hint="leave it out for 3")
    info = probe(path)
    media = _media_seconds(info)
    started = time.perf_counter()
    nets = load_backbone(backbone, device=device)
    load = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = FeatureStore.create(Path(folder) / "store", nets.spec)
        work = _Work(info, nets, store)
        _warm_up(work)
        on_gpu = _reset_device_peak()
        # Before any round: what the other parts leave behind is no part of the whole's memory, and
        # looking at the memory no part of its time. It warms the decoders up, too.
        with _watched_memory() as peak:
            summary = work.whole()
        device_peak = _device_peak() if on_gpu else None
        rows = noise_rows(nets.spec, summary.steps)
        parts: dict[str, Callable[[], object]] = {
            WHOLE: work.whole,
            DECODE: work.decode,
            MODEL: partial(work.encode, info),
            WRITE: partial(work.write, rows, summary),
        }
        timings = time_rounds(parts, rounds=rounds, media=media)
        timings += _details(work, summary, media)
    return SpeedReport(
        f"{path.name}: {media:.1f} s, backbone {backbone} (loaded in {load:.2f} s)",
        machine_line(),
        tuple(timings),
        load=load,
        peak=peak.bytes or None,
        device_peak=device_peak,
        row_bytes=row_bytes(nets.spec),
        steps=summary.steps,
        size=info.size_bytes,
    )


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


def _details(work: _Work, summary: Summary, media: float) -> list[Timing]:
    """Each reader and each net by itself, once."""
    info, parts = work.info, dict[str, Callable[[], object]]()
    if info.video is not None:
        if summary.readers.get("vision") == "decord":  # it cannot read every file
            parts["decode picture (decord)"] = partial(work.decode_picture, "decord")
        parts["decode picture (ffmpeg)"] = partial(work.decode_picture, "ffmpeg")
        parts["picture encoder alone"] = partial(work.encode, replace(info, audio=None))
    if info.audio is not None:
        parts["decode sound"] = work.decode_sound
        parts["sound encoder alone"] = partial(work.encode, replace(info, video=None))
    return time_rounds(parts, rounds=1, media=media)


def _warm_up(work: _Work) -> None:
    grid = work.backbone.spec.grid
    work.encode(replace(work.info, duration=(WARM_UP + grid.window) / float(grid.fps)))


def _drain(blocks: Iterable[object]) -> None:
    for _ in blocks:
        pass


@contextmanager
def _watched_memory() -> Iterator[_Peak]:
    """Watch this process and its children from a thread."""
    done, own = threading.Event(), os.getpid()
    peak = _Peak(tree_bytes(own))

    def watch() -> None:
        while not done.wait(LOOK_S):
            peak.bytes = max(peak.bytes, tree_bytes(own))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _reset_device_peak() -> bool:
    import torch

    if not torch.cuda.is_available():
        return False
    torch.cuda.reset_peak_memory_stats()
    return True


def _device_peak() -> int:
    import torch

    return torch.cuda.max_memory_allocated()


def _media_seconds(info: MediaInfo) -> float:
    """Length of the file.

    Raises:
        MediaError: The file does not say; a speed per second would mean nothing.
    """
    if info.duration is None:
        raise MediaError(info.path, "does not say how long it is", hint="measure another file")
    return info.duration
