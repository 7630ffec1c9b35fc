"""Frames from a decoder's process to ours: the pipe that is used, against a ring of shared memory.

Usage: python tests/benchmarks/frame_transport.py [--megabytes 2000] [--repeats 3] [--seconds 60]

The pipe is today's way (`extractors.media.process`): the child writes, a thread reads into new
arrays and hands them over through a bounded queue. The ring is as many slots of shared memory as
that queue has places, and two semaphores; the child copies each block into a slot. Whoever takes
blocks may keep them, so a thread copies each into an array of its own and queues that. "In place"
is the bound of what a ring could do: the consumer must be done with a block before it takes the
next. All move the same blocks, which the consumer copies into the buffer of its windows. Nothing is
decoded meanwhile. Measured are wall seconds and core seconds of both processes.

Then a made-up 640x360 video is decoded as extraction does (decord, frames of each size on the grid
of 16 a second), and the transport is set against that: what share of the decoding's core seconds it
is. Frames of 640x360 are what I3D asks for; it scales them itself, which counts as decoding here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import numpy as np

from extractors.media.blocks import block_length
from extractors.media.probe import probe
from extractors.media.process import WatchedProcess
from extractors.media.video import QUEUE_BLOCKS, open_video
from extractors.vision.i3d import SHORTER_SIDE
from extractors.vision.i3d_net import SIDE
from extractors.vision.resize import resize_and_crop
from extractors.windows import WindowGrid
from workflows.bench.machine import machine_line
from workflows.bench.speed import make_test_video
from workflows.bench.stopwatch import cpu_seconds

SIZES = {"lite's frames": (288, 160), "shorter side 256": (455, 256), "own size (I3D)": (640, 360)}
CHILD = """
import sys
blocks, size = int(sys.argv[1]), int(sys.argv[2])
block = memoryview(bytearray(b"x" * size))
for _ in range(blocks):
    sys.stdout.buffer.write(block)
sys.stdout.buffer.flush()
"""


def through_pipe(blocks: int, size: int) -> None:
    """Move blocks as `VideoReader` does."""
    child = WatchedProcess(
        [sys.executable, "-c", CHILD, str(blocks), str(size)], stall_timeout=60.0
    )
    places: queue.Queue[np.ndarray] = queue.Queue(QUEUE_BLOCKS)

    def read() -> None:
        for _ in range(blocks):
            block = np.empty(size, np.uint8)
            child.fill(block.data)
            places.put(block)

    reader = threading.Thread(target=read)
    reader.start()
    window = np.empty(size, np.uint8)
    for _ in range(blocks):
        window[:] = places.get()
    reader.join()
    child.close()


def write_ring(name: str, free: Semaphore, full: Semaphore, blocks: int, size: int) -> None:
    """The child of the ring."""
    memory = SharedMemory(name, track=False) if sys.version_info >= (3, 13) else SharedMemory(name)
    block = np.full(size, ord("x"), np.uint8)
    slots = np.ndarray((QUEUE_BLOCKS, size), np.uint8, memory.buf)
    for number in range(blocks):
        free.acquire()
        slots[number % QUEUE_BLOCKS] = block
        full.release()
    del slots
    memory.close()


def through_ring(blocks: int, size: int, *, in_place: bool = False) -> None:
    """Move blocks through shared memory."""
    context = multiprocessing.get_context("fork")  # starts as fast as the pipe's child, or faster
    memory = SharedMemory(create=True, size=QUEUE_BLOCKS * size)
    free, full = context.Semaphore(QUEUE_BLOCKS), context.Semaphore(0)
    child = context.Process(target=write_ring, args=(memory.name, free, full, blocks, size))
    child.start()
    window = np.empty(size, np.uint8)
    if in_place:
        for number in range(blocks):
            full.acquire()
            window[:] = _slot(memory, number, size)
            free.release()
    else:
        places: queue.Queue[np.ndarray] = queue.Queue(QUEUE_BLOCKS)

        def read() -> None:
            for number in range(blocks):
                full.acquire()
                block = _slot(memory, number, size).copy()
                free.release()
                places.put(block)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(blocks):
            window[:] = places.get()
        reader.join()
    child.join()
    memory.close()
    memory.unlink()


def _slot(memory: SharedMemory, number: int, size: int) -> np.ndarray:
    return np.frombuffer(memory.buf, np.uint8, size, (number % QUEUE_BLOCKS) * size)


WAYS: dict[str, Callable[[int, int], None]] = {
    "pipe": through_pipe,
    "ring": through_ring,
    "ring, in place": partial(through_ring, in_place=True),
}


def seconds_per_block(
    move: Callable[[int, int], None], blocks: int, size: int
) -> tuple[float, float]:
    """Wall and core seconds of a block, without what starting takes."""

    def run(count: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), cpu_seconds()
        move(count, size)
        return time.perf_counter() - wall, cpu_seconds() - cpu

    few = max(1, blocks // 10)
    start, whole = run(few), run(blocks + few)
    return (whole[0] - start[0]) / blocks, (whole[1] - start[1]) / blocks


def decode_cpu(path: Path, size: tuple[int, int]) -> tuple[float, int]:
    """Core seconds of decoding a file, transport included, and the number of its frames."""
    info = probe(path)
    assert info.video is not None
    own = size == (info.video.width, info.video.height)
    before, frames = cpu_seconds(), 0
    with open_video(info, fps=WindowGrid().fps, size=size, reader="decord") as reader:
        for block in reader:
            frames += len(block.frames)
            if own:
                resize_and_crop(block.frames, shorter_side=SHORTER_SIDE, crop=SIDE)
    return cpu_seconds() - before, frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    print(machine_line())
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "clip.mp4"
        make_test_video(video, seconds=options.seconds)
        print(f"\n{'':<18} {'way':<15} {'MB/s':>7} {'CPU s/GB':>9} {'of decoding':>12}")
        for name, size in SIZES.items():
            measure(name, size, video, options)


def measure(name: str, size: tuple[int, int], video: Path, options: argparse.Namespace) -> None:
    """Print one size of frames."""
    length = block_length(*size)
    block = length * size[0] * size[1] * 3
    blocks = max(10, options.megabytes * 10**6 // block)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    decoding = []
    for _ in range(options.repeats):
        decoding.append(decode_cpu(video, size))
        for way, move in WAYS.items():
            found[way].append(seconds_per_block(move, blocks, block))
    decode, frames = statistics.median(cpu for cpu, _ in decoding), decoding[0][1]
    costs = []
    for way, rows in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        costs.append(cpu * frames / length / decode)
        print(
            f"{name if way == 'pipe' else '':<18} {way:<15} {block / wall / 1e6:>7.0f} "
            f"{cpu / block * 1e9:>9.3f} {costs[-1]:>12.2%}"
        )
    pipe, ring, bound = costs
    print(f"{'':<18} a ring would save {pipe - ring:.2%}, in place {pipe - bound:.2%}")


if __name__ == "__main__":
    main()
