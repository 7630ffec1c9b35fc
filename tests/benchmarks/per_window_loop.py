"""The loop that most extraction scripts are: for each window, fetch its frames and run the nets.

Usage: python tests/benchmarks/per_window_loop.py [--seconds 60] [--backbone lite]

Both ways read the same made-up file and give as many steps. The loop asks decord for the frames of
one window at a time (``get_batch``), as video_features' and many other scripts do, encodes them,
and encodes the window of sound; sound is read whole before. Ours is the extraction of this program,
into memory. Core seconds of all processes and wall seconds; the ratio is that of the throughputs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
from numpy.typing import NDArray

from extractors.media.audio import open_audio
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.registry import load_backbone
from extractors.spec import Backbone, FramePreparer
from extractors.stream import FeatureStream
from workflows.bench.machine import machine_line
from workflows.bench.speed import make_test_video
from workflows.bench.stopwatch import cpu_seconds


def per_window(info: MediaInfo, backbone: Backbone) -> int:
    """Steps made one by one."""
    assert info.video is not None and info.duration is not None
    grid = backbone.spec.grid
    width, height = backbone.vision.frame_size(info.video.width, info.video.height)
    frames = decord.VideoReader(str(info.path), width=width, height=height, num_threads=1)
    starts = frames.get_frame_timestamp(range(len(frames)))[:, 0]
    with open_audio(info, sample_rate=grid.sample_rate) as reader:
        sound = np.concatenate(list(reader))
    steps = grid.steps(info.duration)
    for step in range(steps):
        moments = (step * grid.stride + np.arange(grid.window)) / float(grid.fps)
        wanted = np.searchsorted(starts, moments + 1e-6, side="right") - 1
        batch: NDArray[np.uint8] = frames.get_batch(np.maximum(wanted, 0)).asnumpy()
        if isinstance(backbone.vision, FramePreparer):
            batch = backbone.vision.prepare(batch)
        whole = backbone.spec.vision.unit == "window"
        backbone.vision.embed(batch[None] if whole else batch)
        begin = step * grid.stride_samples
        window = np.zeros((1, grid.window_samples), np.float32)
        found = sound[begin : begin + grid.window_samples]
        window[0, : len(found)] = found
        backbone.audio.embed(window)
    return int(steps)


def ours(info: MediaInfo, backbone: Backbone) -> int:
    """Steps as extraction makes them."""
    return sum(len(rows["vision"]) for rows in FeatureStream(info, backbone))


def measure(
    work: Callable[[MediaInfo, Backbone], int], *inputs: object
) -> tuple[int, float, float]:
    wall, cpu = time.perf_counter(), cpu_seconds()
    steps = work(*inputs)  # type: ignore[arg-type]
    return steps, time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--backbone", default="lite")
    args = parser.parse_args()
    backbone = load_backbone(args.backbone, device="auto")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        make_test_video(path, seconds=args.seconds)
        info = probe(path)
        ours(info, backbone)  # warms up
        rows = {"extraction": measure(ours, info, backbone)}
        rows["loop by windows"] = measure(per_window, info, backbone)
    print(machine_line())
    print(f"{args.seconds:g} s of 640x360, backbone {args.backbone}\n")
    print(f"{'':<18} {'steps':>6} {'wall s':>8} {'CPU s':>8} {'x real time':>12}")
    for name, (steps, wall, cpu) in rows.items():
        print(f"{name:<18} {steps:>6} {wall:>8.2f} {cpu:>8.2f} {args.seconds / wall:>12.2f}")
    (_, our_wall, our_cpu), (_, their_wall, their_cpu) = rows.values()
    print(f"\nthroughput {their_wall / our_wall:.2f} times the loop's (wall), ", end="")
    print(f"{their_cpu / our_cpu:.2f} by core seconds")


if __name__ == "__main__":
    main()
