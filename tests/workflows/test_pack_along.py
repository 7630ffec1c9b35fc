"""Small files are joined while a run goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from extractors.features import Summary
from extractors.storage.store import FeatureStore
from fixtures.backbones import toy
from pipeline.core.errors import UsageError
from workflows.extraction import pack_along
from workflows.extraction.groups import Results
from workflows.extraction.pack_along import packing_along
from workflows.extraction.report import ExtractRow
from workflows.extraction.task import ExtractJob
from workflows.tasks import TaskResult

SPEC = toy().spec


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setattr(pack_along, "PACK_EVERY", 8)
    return FeatureStore.create(tmp_path / "store", SPEC)


def jobs(store: FeatureStore, count: int) -> list[ExtractJob]:
    return [
        ExtractJob(f"v{n:03}", "", str(store.path), "toy", "cpu", "auto", overwrite=False)
        for n in range(count)
    ]


def runner(store: FeatureStore, *, failing: Sequence[str] = ()) -> pack_along.Run:
    def run(jobs: Sequence[ExtractJob]) -> Results:
        for job in jobs:
            if job.id not in failing:
                with store.writer(job.id) as writer:
                    writer.finish(Summary(0.0, 0, {}, {}, "done"))
            outcome = "failed" if job.id in failing else "done"
            yield TaskResult(job, ExtractRow(job.id, job.path, outcome))  # type: ignore[arg-type]

    return run


def settle() -> None:
    """Until no thread packs."""
    for thread in threading.enumerate():
        if thread.name == "packing":
            thread.join(10)


def test_a_folder_never_holds_many_more_than_was_said(store: FeatureStore) -> None:
    most, rows = 0, []
    with packing_along(store) as along:
        for result in along(runner(store))(jobs(store, 100)):
            rows.append(result.value)
            settle()
            most = max(most, len(store.loose_paths()))
    assert len(rows) == 100 and most <= 9
    assert len(store) == 100 and list(store.verify()) == []


def test_what_failed_does_not_count(store: FeatureStore) -> None:
    failing = [f"v{n:03}" for n in range(50) if n % 10]
    with packing_along(store) as along:
        for _ in along(runner(store, failing=failing))(jobs(store, 50)):
            settle()
    assert len(store.loose_paths()) == 5


def test_a_run_does_not_wait_for_packing_but_its_end_does(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, packed, real = threading.Event(), [], FeatureStore.pack

    def slow(self: FeatureStore, **options: object) -> int:
        assert gate.wait(10)
        packed.append(real(self, **options))  # type: ignore[arg-type]
        return packed[-1]

    monkeypatch.setattr(FeatureStore, "pack", slow)
    with packing_along(store) as along:
        assert len(list(along(runner(store))(jobs(store, 40)))) == 40
        assert packed == []
        gate.set()
    assert packed == [40]


def test_an_interrupt_stops_packing_within_a_shard(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    def endless(self: FeatureStore, *, min_videos: int, go_on) -> int:  # type: ignore[no-untyped-def]
        while go_on():
            threading.Event().wait(0.01)
        stopped.append(True)
        return 0

    monkeypatch.setattr(FeatureStore, "pack", endless)
    with pytest.raises(KeyboardInterrupt), packing_along(store) as along:
        for _ in along(runner(store))(jobs(store, 20)):
            pass
        raise KeyboardInterrupt
    assert stopped == [True]


def test_a_fault_of_the_disk_in_between_does_not_end_the_run(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def faulty(self: FeatureStore, **options: object) -> int:
        asked.append(options["min_videos"])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(FeatureStore, "pack", faulty)
    with packing_along(store) as along:
        for _ in along(runner(store))(jobs(store, 40)):
            settle()
    assert asked == [2] * 5


def test_a_run_that_is_refused_is_refused_at_once_and_one_that_is_closed_is_closed(
    store: FeatureStore,
) -> None:
    closed = []

    def refuse(jobs: Sequence[ExtractJob]) -> Results:
        raise UsageError("no such scheduler")

    def run(jobs: Sequence[ExtractJob]) -> Iterator[TaskResult[ExtractJob, ExtractRow]]:
        try:
            for job in jobs:
                yield TaskResult(job)
        finally:
            closed.append(True)

    with packing_along(store) as along:
        with pytest.raises(UsageError):
            along(refuse)(jobs(store, 3))
        results = along(run)(jobs(store, 3))  # type: ignore[arg-type]
        next(results)
        results.close()
    assert closed == [True]
