"""What one video asks of the file system under a store: files opened, flushed, renamed, removed.

Usage: python tests/benchmarks/store_requests.py [--clips 8 40]

The same short clip under many names is extracted by a stand-in whose nets answer nothing, in one
process, into a new store, with each of two numbers of clips; what is printed is what one clip more
asks for: what a run asks for once drops out. Then the small files are joined. Counted are calls
of this process on paths in the store, from CPython's audit events; the flushes with a wrapper
around ``os.fsync``. What SQLite does with the index is not among them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.lite_spec import LITE
from extractors.registry import BackboneRow
from extractors.spec import Backbone, Encoded, EncoderSpec
from extractors.storage.store import FeatureStore
from workflows.bench.speed import make_test_video
from workflows.extraction.run import extract

TEMPORARY = getattr(os, "O_TMPFILE", -1)
EVENTS = {"os.rename": "renamed", "os.remove": "removed", "os.mkdir": "folders made"}
KINDS = ("opened to read", "opened to write", "flushed", "renamed", "removed", "folders made")


class StandIn:
    """Zeros."""

    class_names: tuple[str, ...] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 288, 160

    def embed(self, rows: NDArray[Any]) -> Encoded:
        scores = np.zeros((len(rows), self.spec.classes), np.float32)
        return Encoded(np.zeros((len(rows), self.spec.dim), np.float32), scores)


def load(**_: Any) -> Backbone:
    return Backbone(LITE, StandIn(LITE.vision), StandIn(LITE.audio))


ROW = BackboneRow(LITE, load)


class Counting:
    """Counts calls on paths below a folder."""

    def __init__(self) -> None:
        self.folder = "\0"
        self.found: Counter[str] = Counter()
        self._flush = os.fsync
        os.fsync = self._count_flush
        sys.addaudithook(self._hear)

    def of(self, folder: Path) -> Counter[str]:
        """A new count."""
        self.folder, self.found = str(folder), Counter()
        return self.found

    def _count_flush(self, descriptor: Any) -> None:
        self.found["flushed"] += 1
        self._flush(descriptor)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = arguments[0] if arguments else None
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.folder):
            return
        if event == "open":
            if arguments[1] is None and arguments[2] & TEMPORARY == TEMPORARY:
                return  # told again, with a mode, by the file object on top of it
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            self.found["opened to write" if writes else "opened to read"] += 1
        elif event in EVENTS:
            self.found[EVENTS[event]] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, nargs=2, default=[8, 40], help="two numbers of clips")
    few, many = sorted(parser.parse_args().clips)
    if few < 1 or few == many:
        parser.error("two different numbers of clips are needed")
    counting = Counting()
    with tempfile.TemporaryDirectory(prefix="requests-") as folder:
        place = Path(folder)
        clip = place / "clip.mp4"
        make_test_video(clip, seconds=2)
        runs, packs = {}, {}
        for number in (few, many):
            videos, out = place / f"videos{number}", place / f"features{number}"
            videos.mkdir()
            for index in range(number):
                shutil.copy(clip, videos / f"{index:05d}.mp4")
            runs[number] = counting.of(out)
            report = extract([videos], out, backbone=ROW, scheduler="serial", at_once=1)
            assert report.counts["done"] == number, report.format_table()
            packs[number] = counting.of(out)
            FeatureStore.open(out).pack()
    print(f"{'a video':<18}{'extracting':>12}{'joining':>12}")
    for kind in KINDS:
        each = [(found[many][kind] - found[few][kind]) / (many - few) for found in (runs, packs)]
        print(f"{kind:<18}{each[0]:>12.2f}{each[1]:>12.2f}")


if __name__ == "__main__":
    main()
