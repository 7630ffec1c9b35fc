"""Clusters that grow, shrink and renew their workers while videos are extracted."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from distributed import get_worker

from extractors.storage.store import FeatureStore
from fixtures.backbones import DEADLY_TOY, SLOW_TOY, TOY
from fixtures.media import run_ffmpeg
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault
from tests.torture import sized
from tests.torture.processes import (
    ROOT,
    Cluster,
    environment,
    kill_group,
    ledger_count,
    start_extract,
    wait_for,
)
from tests.torture.stores import assert_same
from workflows.extraction.attempts import read_attempts
from workflows.extraction.run import extract
from workflows.inputs import MediaItem
from workflows.schedule import run_tasks


def writers(out: Path) -> set[str]:
    """Processes that finished a video: each writes a ledger file of its own."""
    return {path.name for path in (out / "ledger").glob("*.jsonl") if '"done"' in path.read_text()}


def test_an_adaptive_cluster_grows_from_nothing_and_shrinks_again(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    cluster = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.adaptive", "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(0.5),
    )
    assert cluster.stdin is not None and cluster.stdout is not None

    def workers() -> int:
        cluster.stdin.write("\n")  # type: ignore[union-attr]
        cluster.stdin.flush()  # type: ignore[union-attr]
        return int(cluster.stdout.readline())  # type: ignore[union-attr]

    try:
        address = cluster.stdout.readline().strip()
        assert workers() == 0
        job = start_extract(videos, out, scheduler=address, delay=0.5, workers=3)
        wait_for(lambda: workers() >= 2 or job.poll() is not None)
        _, complaints = job.communicate(timeout=120)
        assert job.returncode == 0, complaints
        wait_for(lambda: workers() == 0)
    finally:
        cluster.stdin.close()
        assert cluster.wait(60) == 0
        cluster.stdout.close()
    assert len(writers(out)) >= 2
    assert_same(out, undisturbed)


def test_workers_that_are_renewed_now_and_then_lose_nothing(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """As docs/cluster.md advises for workers that run for weeks, only much more often."""
    out = tmp_path / "features"
    renewing = ["--lifetime", "4s", "--lifetime-stagger", "1s", "--lifetime-restart"]
    # Six videos of 2 s on two workers: no worker lives long enough for its half of them.
    with Cluster(tmp_path, workers=2, delay=2.0, options=renewing) as cluster:
        job = start_extract(videos, out, scheduler=cluster.address, delay=2.0)
        _, complaints = job.communicate(timeout=200)
    assert job.returncode == 0, complaints
    assert len(writers(out)) > 2  # processes, from two workers
    assert_same(out, undisturbed)  # by that one job


def test_what_a_worker_holds_that_hangs_is_told_as_not_done(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host stands still: Dask gives its video to the other worker, which may not have it."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "2s")
    monkeypatch.setattr("workflows.extraction.run.CLOSING_S", 4.0)
    out = tmp_path / "features"
    with Cluster(tmp_path, workers=2, delay=1.5) as cluster:
        hang = threading.Thread(target=freeze_a_worker, args=(out,), daemon=True)
        hang.start()
        report = extract([videos], out, backbone=SLOW_TOY, scheduler=cluster.address, limit=2)
        hang.join()
        assert report.exit_code == 1 and report.counts["done"] == 1, report.format_table()
        assert "no running job answers for" in report.format_table()
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


def freeze_a_worker(out: Path) -> None:
    """SIGSTOP for a process that has begun a video, and for its nanny."""
    wait_for(lambda: (out / "ledger").is_dir() and ledger_count(out, "started") >= 1)
    path = next(path for path in (out / "ledger").glob("*.jsonl") if path.read_text())
    worker = psutil.Process(int(path.name.split("-")[-2]))  # host, process, number
    for process in (worker.parent(), worker):
        process.suspend()


def test_a_worker_that_is_asked_to_end_leaves_no_crash_behind(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """As SLURM and Kubernetes end what they preempt; the job goes down with it, unasked."""
    out = tmp_path / "features"
    with Cluster(tmp_path, workers=1, delay=60.0) as cluster:
        job = start_extract(videos, out, scheduler=cluster.address, delay=60.0, at_once=2)
        wait_for(lambda: (out / "ledger").is_dir() and ledger_count(out, "started") >= 2)
        cluster.workers[0].send_signal(signal.SIGTERM)
        cluster.workers[0].wait(60)
        kill_group(job)
    store = FeatureStore.open(out)
    assert {row.outcome for row in store.ledger.latest().values()} == {"skipped"}
    assert read_attempts(store.ledger) == {}
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


@pytest.mark.parametrize("at_once", [3, 1][: sized(1, 2)])
def test_a_video_that_kills_workers_of_a_cluster_as_it_comes_is_set_aside_after_two(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, at_once: int
) -> None:
    """The scheduler's own setting would let it kill four, and four more where it has company."""
    out, clips = tmp_path / "features", tmp_path / "clips"
    shutil.copytree(videos, clips)
    picture = ["-f", "lavfi", "-i", "color=red:s=64x48:r=10:d=2"]
    run_ffmpeg(*picture, "-c:v", "libx264", "-pix_fmt", "yuv420p", clips / "red.mp4")
    with Cluster(tmp_path, workers=2) as cluster:
        report = extract(
            [clips], out, backbone=DEADLY_TOY, scheduler=cluster.address, at_once=at_once
        )
    bad = [row for row in report.rows if row.outcome != "done"]
    assert [(row.id, row.outcome) for row in bad] == [("red.mp4", "quarantined")]
    assert bad[0].reason == "its worker process died 2 times while extracting it"
    rows = FeatureStore.open(out).ledger.rows()
    assert sum((row.id, row.outcome) == ("red.mp4", "started") for row in rows) == 2
    assert_same(out, undisturbed)


def where(item: int) -> bool:
    """Whether this worker offers something."""
    time.sleep(0.3)
    return bool(get_worker().state.total_resources)


def test_workers_with_a_gpu_get_everything_from_when_they_come(tmp_path: Path) -> None:
    with Cluster(tmp_path, workers=1) as cluster:
        found: list[bool | None] = []
        for result in run_tasks(where, range(40), scheduler=cluster.address, use_gpus=True):
            if not found:
                cluster.offer = "GPU=1"
                cluster.add_worker()
                cluster.add_worker()
            found.append(result.value)
    first = found.index(True)
    assert found.count(False) > 0
    # But for what was handed out before, which may come late.
    assert found[first:].count(False) <= 3, "".join("-G"[bool(each)] for each in found)


@pytest.mark.parametrize("then", ["a worker comes", "nobody comes", "the scheduler dies"])
def test_a_cluster_without_workers_is_waited_for_as_long_as_a_queue_may_be(
    tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one of docs/cluster.md's on SLURM, whose first job waits for its machine."""
    monkeypatch.setattr("workflows.waiting.WORKERS_S", 0.5)
    monkeypatch.setattr("workflows.waiting.ABANDONED_S", 3.0 if then == "nobody comes" else 120.0)
    with Cluster(tmp_path, workers=0) as cluster:
        events = {
            "a worker comes": cluster.add_worker,
            "nobody comes": lambda: None,
            "the scheduler dies": cluster.kill_the_scheduler,
        }

        def happen() -> None:
            wait_for(lambda: "still waiting" in caplog.text)
            events[then]()

        event = threading.Thread(target=happen, daemon=True)
        event.start()
        results = run_tasks(abs, [-1], scheduler=cluster.address)
        if then == "a worker comes":
            assert [result.value for result in results] == [1]
        else:
            words = "had no worker for 3 s" if then == "nobody comes" else "scheduler is gone"
            with pytest.raises(EnvironmentFault, match=words):
                list(results)
        event.join()
    assert caplog.text.count("still waiting") == 1


@pytest.mark.parametrize("left", ["nobody", "a worker without a GPU"])
def test_who_waits_for_a_worker_that_never_comes_is_told_at_last(
    tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workflows.dispatch.WORKERS_S", 1.0)
    monkeypatch.setattr("workflows.dispatch.ABANDONED_S", 4.0)
    on_gpu = left != "nobody"
    with Cluster(tmp_path, workers=1, offer="GPU=1" if on_gpu else "") as cluster:
        results = run_tasks(abs, range(9), scheduler=cluster.address, use_gpus=on_gpu)
        next(results)
        if on_gpu:
            cluster.offer = ""
            cluster.add_worker()
            wait_for(lambda: "Registered to" in (tmp_path / "dask2.log").read_text())
        cluster.end_a_worker(0)
        with pytest.raises(EnvironmentFault, match="GPU" if on_gpu else "no worker for 4 s"):
            list(results)
    assert "still waiting" in caplog.text


@pytest.mark.parametrize("place", ["a cluster", "this machine"])
def test_the_dashboard_that_is_announced_answers(tmp_path: Path, place: str) -> None:
    links: list[str] = []
    if place == "this machine":
        results = run_tasks(abs, [-1, -2], scheduler="dask", workers=1, announce=links.append)
        assert next(results).value == 1
        assert answer(links) == 200
        results.close()
        return
    with Cluster(tmp_path, workers=1, dashboard=True) as cluster:
        found = run_tasks(abs, [-1, -2], scheduler=cluster.address, announce=links.append)
        assert sorted(result.value or 0 for result in found) == [1, 2]
        assert answer(links) == 200


def test_the_command_prints_the_dashboard_of_its_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = MediaItem("gone.mp4", str(tmp_path / "gone.mp4"))  # nothing to load nets for
    monkeypatch.setattr("workflows.extraction.run.find_media", lambda inputs: [gone])
    with Cluster(tmp_path, workers=1, dashboard=True) as cluster:
        words = ["extract", str(tmp_path / "gone.mp4"), "--out", str(tmp_path / "features")]
        assert main([*words, "--scheduler", cluster.address]) == 1
        said = capsys.readouterr()
        assert answer(re.findall(r"^dashboard: (\S+)$", said.err, re.MULTILINE)) == 200
    assert "1 failed" in said.out


def answer(links: list[str]) -> int:
    (link,) = links
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/status", link)
    with urllib.request.urlopen(link, timeout=30) as page:
        return int(page.status)
