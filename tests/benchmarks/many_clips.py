"""Many short clips, extracted one after the other and several at once.

Usage: python tests/benchmarks/many_clips.py [--clips 24] [--pairs 3] [--at-once 1 2] [--only lite]

Clips of 4 to 10 s (640x360, H.264 and AAC) are made first. Each pair extracts all of them once with
each number of videos in flight, into a new store, in turns, as other programs on the machine come
and go. Two backbones:

* ``lite``, on this machine's device;
* a stand-in for a fast accelerator: its nets answer nothing, but each batch of 32 rows, however
  full, keeps a device busy that is not the CPU (``--batch-ms``). What it shows is how long a device
  waits for decoders that start and disks that write.

Printed are the medians of wall and CPU seconds (decoders included), and the share of the wall time
in which the stand-in was busy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.joint import DEVICE_ROWS, JointBatches
from extractors.lite_spec import LITE
from extractors.registry import BACKBONES, BackboneRow
from extractors.spec import Backbone, Encoded, EncoderSpec
from workflows.bench.busy import covered
from workflows.bench.busy_nets import SimulatedDevice
from workflows.bench.machine import machine_line
from workflows.bench.speed import make_test_video
from workflows.bench.stopwatch import cpu_seconds
from workflows.extraction.run import extract

SHORTEST_S, LONGEST_S = 4, 10


DEVICE = SimulatedDevice(0.0)


class StandIn:
    """Zeros, from a device that takes its time."""

    class_names: tuple[str, ...] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        self._joint = JointBatches(DEVICE.launch, DEVICE.collect, rows=DEVICE_ROWS)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 288, 160

    def embed(self, rows: NDArray[Any]) -> Encoded:
        self._joint(rows)
        count = len(rows)
        scores = np.zeros((count, self.spec.classes), np.float32)
        return Encoded(np.zeros((count, self.spec.dim), np.float32), scores)


def load_stand_in(*, device: str, threads: int | None, **_: Any) -> Backbone:
    return Backbone(LITE, StandIn(LITE.vision), StandIn(LITE.audio))


BACKBONES_HERE = {
    "lite": BACKBONES["lite"],
    "stand-in": BackboneRow(LITE, load_stand_in),  # type: ignore[arg-type]
}


def measure(clips: Path, row: BackboneRow, at_once: int) -> tuple[float, float, float]:
    """Wall, CPU and busy seconds of one extraction."""
    with tempfile.TemporaryDirectory(prefix="clips-") as out:
        wall, cpu, batches = time.perf_counter(), cpu_seconds(), len(DEVICE.intervals())
        report = extract([clips], Path(out) / "feats", backbone=row, at_once=at_once)
        assert report.exit_code == 0, report.format_table()
        busy = covered(DEVICE.intervals()[batches:])
        return time.perf_counter() - wall, cpu_seconds() - cpu, busy


def compare(clips: Path, name: str, options: argparse.Namespace) -> None:
    """Print one backbone."""
    row = BACKBONES_HERE[name]
    measure(clips, row, 1)  # loads, and warms the disk's cache
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in options.at_once}
    for pair in range(options.pairs):
        for count in options.at_once if pair % 2 == 0 else reversed(options.at_once):
            found[count].append(measure(clips, row, count))
    print(f"\n{name}\n{'at once':>8} {'wall s':>8} {'CPU s':>8} {'device busy':>12}")
    medians = {
        count: [statistics.median(column) for column in zip(*rows, strict=True)]
        for count, rows in found.items()
    }
    for count, (wall, cpu, busy) in medians.items():
        share = f"{busy / wall:.0%}" if busy else "-"
        print(f"{count:>8} {wall:>8.2f} {cpu:>8.2f} {share:>12}")
    first = options.at_once[0]
    for count in options.at_once[1:]:
        wall, cpu = (medians[count][place] / medians[first][place] for place in (0, 1))
        ratios = [b[0] / a[0] for a, b in zip(found[first], found[count], strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{count} against {first}: {wall:.2f} of the wall time ({each}), {cpu:.2f} of the CPU's"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-ms", type=float, default=50.0)
    parser.add_argument("--only", choices=sorted(BACKBONES_HERE), default=None)
    options = parser.parse_args()
    DEVICE.batch_s = options.batch_ms / 1000
    print(machine_line())
    with tempfile.TemporaryDirectory(prefix="clips-") as folder:
        lengths = np.linspace(SHORTEST_S, LONGEST_S, options.clips).round(2)
        np.random.default_rng(0).shuffle(lengths)
        for number, seconds in enumerate(lengths):
            make_test_video(Path(folder) / f"{number:03}.mp4", seconds=float(seconds))
        print(f"{options.clips} clips of 640x360, {lengths.sum():.0f} s together; ", end="")
        print(f"stand-in: {options.batch_ms:g} ms a batch of {DEVICE_ROWS}")
        for name in [options.only] if options.only else BACKBONES_HERE:
            compare(Path(folder), name, options)


if __name__ == "__main__":
    main()
