"""Several videos in flight in one process: the same store, and blame where it belongs."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import workflows.extraction.task as task_module
from extractors.interruption import interrupted_by
from extractors.storage.store import FeatureStore
from fixtures.backbones import DEADLY_TOY, TOY
from fixtures.media import run_ffmpeg
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault
from pipeline.core.ledger import Ledger, LedgerRow
from workflows.extraction.attempts import CRASHES, read_attempts
from workflows.extraction.company import company
from workflows.extraction.groups import TRIALS, Trials, choose_at_once, cores_of_each, group_jobs
from workflows.extraction.report import ExtractRow
from workflows.extraction.run import extract
from workflows.extraction.task import ExtractGroup, ExtractJob
from workflows.tasks import wanted_while

ROOT = Path(__file__).parents[2]
COLOURS = ("blue", "gray", "lime", "purple", "red", "white")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, colour in enumerate(COLOURS):
        picture = ["-f", "lavfi", "-i", f"color={colour}:s=64x48:r=10:d={2 + number / 2}"]
        codec = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
        run_ffmpeg(*picture, *codec, folder / f"{colour}.mp4")
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    return folder


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "videos").iterdir()}


def test_the_store_is_the_same_however_many_are_in_flight(videos: Path, tmp_path: Path) -> None:
    one = extract([videos], tmp_path / "one", backbone=TOY, at_once=1)
    many = extract([videos], tmp_path / "many", backbone=TOY, at_once=4)
    assert [(row.id, row.outcome, row.steps) for row in one.rows] == [
        (row.id, row.outcome, row.steps) for row in many.rows
    ]
    assert one.counts["done"] == len(COLOURS) and one.counts["failed"] == 1
    assert files(tmp_path / "one") == files(tmp_path / "many")


def test_so_many_videos_are_open_at_once_and_no_more(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, guard, open_now, most = task_module.FeatureStream, threading.Lock(), [0], [0]
    both = threading.Barrier(2, timeout=60)

    class Counted(original):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Any:
            with guard:
                open_now[0] += 1
                most[0] = max(most[0], open_now[0])
            both.wait()  # passes only when two videos are in flight
            yield from super().__iter__()
            with guard:
                open_now[0] -= 1

    monkeypatch.setattr(task_module, "FeatureStream", Counted)
    report = extract([videos], tmp_path / "out", backbone=TOY, at_once=2)
    assert report.counts["done"] == len(COLOURS)
    assert most == [2]


DEADLY = """
import sys
from fixtures.backbones import DEADLY_TOY
from workflows.extraction.run import extract
if __name__ == "__main__":
    sys.exit(extract([sys.argv[1]], sys.argv[2], backbone=DEADLY_TOY, at_once=3).exit_code)
"""


def test_who_dies_beside_a_deadly_video_is_not_set_aside_with_it(
    videos: Path, tmp_path: Path
) -> None:
    script, out = tmp_path / "deadly.py", tmp_path / "features"
    script.write_text(DEADLY)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ends = []
    for _ in range(3):
        words = [sys.executable, str(script), str(videos), str(out)]
        environment = {**os.environ, "PYTHONPATH": paths}
        ends.append(subprocess.run(words, cwd=ROOT, env=environment, timeout=120).returncode)
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 1]
    store = FeatureStore.open(out)
    assert store.ids() == [f"{colour}.mp4" for colour in COLOURS if colour != "red"]
    quarantined = {row.id for row in store.ledger.rows() if row.outcome == "quarantined"}
    assert quarantined == {"red.mp4"}
    started = [row for row in store.ledger.rows() if row.outcome == "started"]
    assert [bool(row.details) for row in started if row.id == "red.mp4"] == [True, False]


def test_a_crash_in_company_counts_once_and_one_alone_always(tmp_path: Path) -> None:
    def crashes(*attempts: bool) -> int:
        ledger = Ledger(tmp_path / "-".join(map(str, attempts)))
        for shared in attempts:
            ledger.append(LedgerRow("a", "started", details={"shared": True} if shared else {}))
        return read_attempts(ledger)["a"].crashes

    assert crashes(True) == 1
    assert crashes(True, True, True) == 1 < CRASHES
    assert crashes(True, False) == CRASHES
    assert crashes(False, False) == CRASHES
    assert crashes(False, True) == 1


def test_workers_that_are_given_groups_lose_only_what_kills_them(
    videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    report = extract([videos], out, backbone=DEADLY_TOY, scheduler="dask", workers=2, at_once=2)
    outcomes = {row.id: row.outcome for row in report.rows}
    assert outcomes.pop("red.mp4") == "quarantined" and outcomes.pop("text.mp4") == "failed"
    # What was done beside it is found in the store by the worker that comes after, and counts.
    assert set(outcomes.values()) == {"done"}
    assert all(row.steps > 0 for row in report.rows if row.outcome == "done")
    assert FeatureStore.open(out).ids() == sorted(outcomes)


def job(number: int) -> ExtractJob:
    return ExtractJob(str(number), f"{number}.mp4", "out", TOY, "cpu", "auto", overwrite=False)


def test_one_at_a_time_is_one_a_group() -> None:
    jobs = [job(number) for number in range(40)]
    assert [len(group.jobs) for group in group_jobs(jobs, at_once=lambda: 1)] == [1] * 40


@pytest.mark.parametrize("count", [1, 7, 100, 5000])
def test_groups_hold_every_job_once_in_order_and_shrink_to_the_end(count: int) -> None:
    jobs = [job(number) for number in range(count)]
    groups = list(group_jobs(jobs, at_once=lambda: 4))
    assert [each.id for group in groups for each in group.jobs] == [each.id for each in jobs]
    sizes = [len(group.jobs) for group in groups]
    assert max(sizes) <= 32 and sizes == sorted(sizes[:-1], reverse=True) + sizes[-1:]
    assert sizes[-1] <= 4


def test_a_group_that_nobody_waits_for_any_more_begins_no_further_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []

    def begin(job: ExtractJob) -> ExtractRow:
        begun.append(job.id)
        return ExtractRow(job.id, job.path, "done")

    monkeypatch.setattr(task_module, "extract_one", begin)
    group = ExtractGroup(tuple(job(number) for number in range(9)), at_once=1)
    with wanted_while(lambda: len(begun) < 3):
        assert len(task_module.extract_group(group)) == 3
    assert begun == ["0", "1", "2"]
    assert len(task_module.extract_group(group)) == 9


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_wrong_with_a_machine_of_a_cluster_names_the_machine(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def fail(job: ExtractJob) -> ExtractRow:
        raise EnvironmentFault("the weights nets.pt are missing", hint="fetch them")

    monkeypatch.setattr(task_module, "extract_one", fail)
    group = ExtractGroup(tuple(job(number) for number in range(count)), at_once=1)
    (result,) = task_module.extract_group(group)
    place = f"on {socket.gethostname()}: the weights nets.pt are missing (fetch them)"
    assert isinstance(result.error, EnvironmentFault) and str(result.error) == place


def test_who_must_be_alone_waits_for_the_others_and_they_for_it() -> None:
    inside: list[str] = []
    met: list[list[str]] = []
    turn = threading.Lock()

    def work(name: str) -> None:
        with company(alone=name.startswith("alone")):
            with turn:
                inside.append(name)
            time.sleep(0.02)
            with turn:
                met.append(list(inside))
                inside.remove(name)

    names = [f"{'alone' if number % 4 == 0 else 'other'} {number}" for number in range(24)]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(met) == 24
    assert all(len(names) == 1 for names in met if any("alone" in name for name in names))
    assert max(len(names) for names in met) > 1


def test_who_waits_to_be_alone_is_freed_when_asked_to_leave() -> None:
    stop = threading.Event()
    stop.set()
    inner = company(alone=True)
    with company(alone=False), interrupted_by(stop), pytest.raises(KeyboardInterrupt):
        inner.__enter__()  # another is in flight
    with company(alone=False):  # and nobody waits for it
        pass


def test_who_must_not_share_a_process_is_a_group_alone() -> None:
    groups = list(
        group_jobs([job(number) for number in range(6)], at_once=lambda: 4, alone={"2", "3"})
    )
    assert [len(group.jobs) for group in groups] == [2, 1, 1, 2]
    assert [group.jobs[0].shared for group in groups] == [True, False, False, True]


def test_a_group_whose_worker_died_is_tried_one_by_one_until_the_ledger_blames_one(
    tmp_path: Path,
) -> None:
    store = FeatureStore.create(tmp_path / "features", TOY.spec)
    trials = Trials(store)
    for id in "12":
        store.ledger.append(LedgerRow(id, "started", details={"shared": True}))
    guilty, innocent = trials(ExtractGroup((job(1), job(2)), at_once=2))
    assert [len(single.jobs) for single in (guilty, innocent)] == [1, 1]
    assert not guilty.jobs[0].shared and not innocent.jobs[0].shared
    store.ledger.append(LedgerRow("1", "started"))
    assert trials(guilty) == []
    assert trials(innocent) == [innocent]  # it waited at the worker that the other killed


def test_a_worker_that_dies_before_it_begins_is_not_replaced_for_ever(tmp_path: Path) -> None:
    trials = Trials(FeatureStore.create(tmp_path / "features", TOY.spec))
    group = ExtractGroup((job(1),), at_once=1)
    tries = 0
    while trials(group) == [group]:
        tries += 1
    assert tries == TRIALS


@pytest.mark.parametrize(
    ("device", "on_gpu", "here", "cores", "expected"),
    [
        ("auto", False, True, 16, 2),
        ("cpu", True, True, 16, 2),
        ("auto", False, False, 16, 1),
        ("auto", True, True, 2, 4),
        ("auto", True, True, 8, 8),
        ("auto", True, True, 96, 12),
        ("auto", True, False, 10, 10),
        ("auto", True, False, None, 4),
        ("cpu", True, False, 16, 1),
        ("cuda:0", False, False, None, 4),
        ("cuda:0", False, True, 16, 12),
    ],
)
def test_the_number_at_once_suits_the_device_and_its_cores(
    device: str, on_gpu: bool, here: bool, cores: int | None, expected: int
) -> None:
    options: dict[str, Any] = {"device": device, "on_gpu": on_gpu, "here": here, "cores": cores}
    assert choose_at_once(None, **options) == expected
    assert choose_at_once(3, **options) == 3


@pytest.mark.parametrize(
    ("scheduler", "workers", "expected"),
    [
        ("serial", None, 48),
        ("dask", None, 12),
        ("dask", 8, 6),
        ("tcp://10.0.0.1:8786", None, None),
        ("tcp://10.0.0.1:8786", 4, None),
    ],
)
def test_cores_are_shared_by_the_processes_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, scheduler: str, workers: int | None, expected: int | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr("workflows.extraction.groups.core_count", lambda: 48)
    assert cores_of_each(scheduler, workers) == expected


def test_a_gpu_that_comes_later_changes_how_many_are_at_once() -> None:
    numbers = itertools.chain([1] * 10, itertools.repeat(4))
    groups = group_jobs([job(number) for number in range(100)], at_once=lambda: next(numbers))
    sizes = [(len(group.jobs), group.at_once) for group in groups]
    assert sizes[0] == (1, 1) and max(sizes) >= (4, 4)


def test_none_at_once_is_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(videos), "--out", str(tmp_path / "out"), "--at-once", "0"]
    assert main(words) == 2
    assert "at_once=0 is below 1" in capsys.readouterr().err
