"""What a store of many videos costs a run before its first video, and in memory until its end.

The store is made up: shards with videos of one step, and a ledger with two rows for each video. So
are the videos, empty files of the right age. Whatever is measured runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from extractors.features import ARRAY_TYPES, Summary
from extractors.lite_spec import LITE
from extractors.registry import BackboneRow
from extractors.shapes import array_shapes
from extractors.spec import Backbone
from extractors.storage.feature_file import write_feature_file
from extractors.storage.packing import SHARD_VIDEOS
from extractors.storage.records import Record, Source, hash_arrays
from extractors.storage.safetensors_io import TensorSource
from extractors.storage.store import FeatureStore
from pipeline.core.atomic import write_text
from pipeline.core.errors import EnvironmentFault
from pipeline.core.ledger import LedgerRow
from workflows.bench.machine import machine_line
from workflows.bench.memory import tree_bytes
from workflows.bench.record import Figure
from workflows.bench.stopwatch import Stopwatch, load_line, peak_bytes
from workflows.extraction.attempts import read_attempts
from workflows.extraction.run import extract
from workflows.inputs import find_media

STEP_S = 1.0
LEDGER_FILES = 8  # as of so many workers
FOLDER_VIDEOS = 1000
AGE_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work.

    Attributes:
        cpu: Seconds of the processor.
        bytes: Memory at its peak, above that of the process before.
    """

    cpu: float
    bytes: int


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Costs of a store of ``videos`` videos, all done.

    Attributes:
        machine: Where.
        videos: How many.
        index: Making an index for a store without one.
        inputs: Finding the files in their folder.
        ledger: Reading the ledger.
        lookups: Asking the store for every video once.
        rerun: A whole ``extract`` that finds everything done, with all of the above but the index.
        ledger_bytes: Size of the ledger.
        index_bytes: Size of the index.
        files: Files in the store.
    """

    machine: str
    videos: int
    index: Cost
    inputs: Cost
    ledger: Cost
    lookups: Cost
    rerun: Cost
    ledger_bytes: int
    index_bytes: int
    files: int

    def figures(self) -> list[Figure]:
        """The report for machines, for each video."""
        parts = {
            "index": self.index,
            "inputs": self.inputs,
            "ledger": self.ledger,
            "look-up": self.lookups,
            "rerun": self.rerun,
        }
        figures = []
        for name, cost in parts.items():
            figures.append(Figure(f"{name}, CPU", cost.cpu * 1e6 / self.videos, "us"))
            figures.append(Figure(f"{name}, memory", cost.bytes / self.videos, "B"))
        return [
            *figures,
            Figure("ledger", self.ledger_bytes / self.videos, "B"),
            Figure("index", self.index_bytes / self.videos, "B"),
            Figure("files", self.files / self.videos, "1"),
        ]

    def format_table(self) -> str:
        """The report as text."""
        rows = [
            f"{figure.name:<16} {figure.value:>10.3f} {figure.unit}" for figure in self.figures()
        ]
        head = [self.machine, f"{self.videos} videos in a packed store, all done; for each:", ""]
        return "\n".join([*head, *rows])


def measure_plan(videos: int = 20_000) -> PlanReport:
    """Make up a store and measure what a run that finds everything done asks of it.

    Args:
        videos: How many; costs grow in proportion.

    Raises:
        EnvironmentFault: A process that was measured failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as name:
        folder = Path(name)
        store = FeatureStore.create(folder / "store", LITE)
        ids = [_id(number) for number in range(videos)]
        for first in range(0, videos, SHARD_VIDEOS):
            _write_shard(store, ids[first : first + SHARD_VIDEOS])
        _write_ledger(store, ids)
        _make_videos(folder / "videos", ids)
        costs = {step: _measured(step, folder) for step in STEPS}
        return PlanReport(
            machine=f"{machine_line()}, {load_line()}",
            videos=videos,
            **costs,
            ledger_bytes=sum(path.stat().st_size for path in store.ledger.directory.iterdir()),
            index_bytes=(store.path / "index.sqlite").stat().st_size,
            files=sum(path.is_file() for path in store.path.rglob("*")),
        )


def _id(number: int) -> str:
    return f"folder {number // FOLDER_VIDEOS:04}/video {number:07}.mp4"


def _index(folder: Path) -> None:
    FeatureStore.open(folder / "store").rebuild_index()


def _inputs(folder: Path) -> object:
    return find_media([folder / "videos"])


def _ledger(folder: Path) -> None:
    left = read_attempts(FeatureStore.open(folder / "store").ledger)
    assert not left, "all were done"


def _lookups(folder: Path) -> None:
    store = FeatureStore.open(folder / "store")
    number = 0
    while _id(number) in store:
        number += 1
    assert number > 0


def _rerun(folder: Path) -> object:
    row = BackboneRow(LITE, _load_nothing)
    report = extract([folder / "videos"], folder / "store", backbone=row)
    skipped = report.counts["skipped"]
    assert skipped == sum(report.counts.values()) > 0
    return report, report.format_table()  # held until memory has been read


def _load_nothing(*, device: str, threads: int | None, weights_dir: Path | None = None) -> Backbone:
    raise AssertionError("there is nothing to extract")


STEPS: dict[str, Callable[[Path], object]] = {
    "index": _index,  # first: the others find it
    "inputs": _inputs,
    "ledger": _ledger,
    "lookups": _lookups,
    "rerun": _rerun,
}


def _measured(step: str, folder: Path) -> Cost:
    """Do a step in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "workflows.bench.plan", step, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        words = done.stderr.strip().rpartition("\n")[2]
        raise EnvironmentFault(f"measuring {step} failed: {words}")
    return Cost(**json.loads(done.stdout))


def _tell(words: Sequence[str]) -> None:
    """What the fresh process does."""
    step, folder = words
    before = tree_bytes(os.getpid())
    with Stopwatch() as watch:
        held = STEPS[step](Path(folder))
    cost = Cost(watch.cpu, max(0, peak_bytes() - before))
    del held
    sys.stdout.write(json.dumps(asdict(cost)))


def _make_videos(folder: Path, ids: Sequence[str]) -> None:
    """Empty files, as old as the store believes."""
    for id in ids:
        path = folder / id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, ns=(AGE_NS, AGE_NS))


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
    source = Source(0, AGE_NS, "0" * 64)
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


if __name__ == "__main__":
    _tell(sys.argv[1:])
