"""What a store of many videos costs a run before its first video: ledger, index, and the look-ups.

The store is made up: shards with videos of one step, and a ledger with two rows for each video.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from extractors.feature_file import write_feature_file
from extractors.features import ARRAY_TYPES, Summary
from extractors.lite import LITE
from extractors.packing import SHARD_VIDEOS
from extractors.records import Record, Source, hash_arrays
from extractors.safetensors_io import TensorSource
from extractors.shapes import array_shapes
from extractors.store import FeatureStore
from pipeline.core.atomic import write_text
from pipeline.core.ledger import LedgerRow
from workflows.attempts import read_attempts
from workflows.bench_record import Figure
from workflows.machine import machine_line
from workflows.memory import tree_bytes
from workflows.stopwatch import Stopwatch, load_line, peak_bytes

STEP_S = 1.0
LEDGER_FILES = 8  # as of so many workers


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Costs of a store of ``videos`` videos, all done.

    Attributes:
        machine: Where.
        videos: How many.
        index: CPU seconds until a store without index has one.
        ledger: CPU seconds of reading the ledger.
        memory: Bytes that reading the ledger takes at its peak.
        lookups: CPU seconds of asking for every video once.
        ledger_bytes: Size of the ledger.
        index_bytes: Size of the index.
        files: Files in the store.
    """

    machine: str
    videos: int
    index: float
    ledger: float
    memory: int
    lookups: float
    ledger_bytes: int
    index_bytes: int
    files: int

    def figures(self) -> list[Figure]:
        """The report for machines, for each video."""
        each = 1e6 / self.videos
        return [
            Figure("index, CPU", self.index * each, "us"),
            Figure("ledger, CPU", self.ledger * each, "us"),
            Figure("look-up, CPU", self.lookups * each, "us"),
            Figure("ledger", self.ledger_bytes / self.videos, "B"),
            Figure("ledger, memory", self.memory / self.videos, "B"),
            Figure("index", self.index_bytes / self.videos, "B"),
            Figure("files", self.files / self.videos, "1"),
        ]

    def format_table(self) -> str:
        """The report as text."""
        rows = [
            f"{figure.name:<14} {figure.value:>10.3f} {figure.unit}" for figure in self.figures()
        ]
        head = [self.machine, f"{self.videos} videos in a packed store, all done; for each:", ""]
        return "\n".join([*head, *rows])


def measure_plan(videos: int = 20_000) -> PlanReport:
    """Make up a store and measure what a run that finds everything done asks of it.

    Args:
        videos: How many; costs grow in proportion.
    """
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        store = FeatureStore.create(Path(folder) / "store", LITE)
        ids = [f"folder {number // 1000:04}/video {number:07}.mp4" for number in range(videos)]
        for first in range(0, videos, SHARD_VIDEOS):
            _write_shard(store, ids[first : first + SHARD_VIDEOS])
        _write_ledger(store, ids)
        before = tree_bytes(os.getpid())
        with Stopwatch() as ledger:
            attempts = read_attempts(store.ledger)
        memory = max(0, peak_bytes() - before)
        with Stopwatch() as index:
            store.rebuild_index()
        with Stopwatch() as lookups:
            there = sum(store.get(id) is not None for id in ids)
        assert there == len(attempts) == videos
        return PlanReport(
            f"{machine_line()}, {load_line()}",
            videos,
            index.cpu,
            ledger.cpu,
            memory,
            lookups.cpu,
            sum(path.stat().st_size for path in store.ledger.directory.iterdir()),
            (store.path / "index.sqlite").stat().st_size,
            sum(path.is_file() for path in store.path.rglob("*")),
        )


def _write_shard(store: FeatureStore, ids: list[str]) -> None:
    """A shard as `FeatureStore.pack` would write it, without syncing every video first."""
    arrays = {
        name: np.zeros((1, *shape), ARRAY_TYPES[name])
        for name, shape in array_shapes(store.spec).items()
    }
    table = {name: (array.dtype.str, array.shape, "0" * 64) for name, array in arrays.items()}
    coverage = {"vision": 1.0, "audio": 1.0}
    readers = {"vision": "decord", "audio": "ffmpeg"}
    summary = Summary(STEP_S, 1, coverage, readers, "done")
    source = Source(10_000_000, 1_700_000_000_000_000_000, "0" * 64)
    write_feature_file(
        store.path / "shards" / f"{hashlib.sha256(ids[0].encode()).hexdigest()[:32]}.safetensors",
        digest=store.digest,
        records=[Record(id, 0, summary, source, hash_arrays(table)) for id in ids],
        sources=[
            TensorSource(f"{id}/{name}", array.dtype.str, array.shape, [array.tobytes()])
            for id in ids
            for name, array in arrays.items()
        ],
    )


def _write_ledger(store: FeatureStore, ids: list[str]) -> None:
    """Rows as workers leave them, in a few files."""

    def lines(mine: list[str]) -> Iterator[str]:
        details = {"steps": 236, "coverage": {"vision": 1.0, "audio": 1.0}}
        for id in mine:
            yield json.dumps(asdict(LedgerRow(id, "started")))
            reader = "vision: decord, audio: ffmpeg"
            row = LedgerRow(id, "done", reader=reader, seconds=1.23456789, details=details)
            yield json.dumps(asdict(row))

    for number in range(LEDGER_FILES):
        path = store.ledger.directory / f"host-{number}.jsonl"
        write_text(path, "\n".join(lines(ids[number::LEDGER_FILES])) + "\n")
