"""Processes that die at any moment: the store after a rerun is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY
from pipeline.core.errors import EnvironmentFault
from tests.torture import sized
from tests.torture.processes import (
    Cluster,
    kill_group,
    ledger_count,
    start_extract,
    wait_for,
)
from tests.torture.stores import assert_same
from workflows.extraction.orphans import LEFT
from workflows.extraction.report import BUSY
from workflows.extraction.run import extract
from workflows.schedule import run_tasks


def finish(videos: Path, out: Path) -> None:
    """Run again until nothing is left to others: an orphaned worker may still be at its video."""

    def all_settled() -> bool:
        report = extract([videos], out, backbone=TOY, retry_failed=True)
        left = [row for row in report.rows if row.reason in (BUSY, LEFT)]
        assert left or report.exit_code == 0, report.format_table()
        return not left

    wait_for(all_settled)


def kill_at_work(videos: Path, out: Path, *, after: float) -> bool:
    """Start a job and kill it some time after it has begun another video.

    Returns:
        Whether it had not ended before.
    """
    before = ledger_count(out, "started")
    job = start_extract(videos, out, delay=0.3)
    wait_for(lambda: job.poll() is not None or ledger_count(out, "started") > before)
    time.sleep(after)
    at_work = job.poll() is None
    kill_group(job)
    return at_work


@pytest.mark.parametrize("seed", range(sized(1, 20)))
def test_the_main_process_is_killed(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, seed: int
) -> None:
    moment, out = random.Random(seed), tmp_path / "features"
    hit = [kill_at_work(videos, out, after=moment.uniform(0.0, 0.8)) for _ in range(2)]
    assert any(hit), "both jobs had ended before they were killed"
    finish(videos, out)
    assert_same(out, undisturbed)


def disturb_workers(cluster: Cluster, moment: random.Random) -> None:
    cluster.kill_a_worker(moment.randrange(2))


def disturb_scheduler(cluster: Cluster, moment: random.Random) -> None:
    cluster.restart_scheduler()


@pytest.mark.parametrize("seed", range(sized(1, 15)))
@pytest.mark.parametrize("disturb", [disturb_workers, disturb_scheduler])
def test_a_worker_or_the_scheduler_of_a_cluster_is_killed(
    videos: Path,
    undisturbed: FeatureStore,
    tmp_path: Path,
    disturb: Callable[[Cluster, random.Random], None],
    seed: int,
) -> None:
    """A dead worker's video is done by another; after a dead scheduler a rerun does the rest."""
    moment, out = random.Random(seed), tmp_path / "features"
    begun = moment.randint(1, 4)  # of six: two workers have some left to do
    with Cluster(tmp_path, delay=0.3) as cluster:
        job = start_extract(videos, out, scheduler=cluster.address, delay=0.3)
        wait_for(lambda: ledger_count(out, "started") >= begun or job.poll() is not None)
        time.sleep(moment.uniform(0.0, 0.3))
        assert job.poll() is None, f"it ended before it was disturbed: {job.communicate()}"
        disturb(cluster, moment)
        _, complaints = job.communicate(timeout=120)
    if disturb is disturb_workers:
        assert job.returncode in (0, 1), complaints
    else:
        assert job.returncode == 0 or "scheduler is gone" in complaints, complaints
    finish(videos, out)
    assert_same(out, undisturbed)


@pytest.mark.parametrize(
    ("offer", "moments_later"),
    [("", 0.0), ("GPU=1", 2.0), ("", 2.0), ("GPU=1", 0.0)][: sized(2, 4)],
)
def test_a_scheduler_that_dies_between_two_results_is_told_in_one_sentence(
    tmp_path: Path, offer: str, moments_later: float
) -> None:
    """While nobody waits for a result: the next question meets what is left of the connection."""
    with Cluster(tmp_path, workers=1, offer=offer) as cluster:
        results = run_tasks(abs, range(9), scheduler=cluster.address, use_gpus=bool(offer))
        assert [next(results).value for _ in range(3)] == [0, 1, 2]
        cluster.kill_the_scheduler()
        time.sleep(moments_later)
        with pytest.raises(EnvironmentFault, match="the Dask scheduler is gone") as caught:
            list(results)
        assert "run the same command" in str(caught.value)


def test_four_jobs_on_one_list_do_every_item_exactly_once(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    jobs = [start_extract(videos, out, delay=0.1) for _ in range(4)]
    for job in jobs:
        _, complaints = job.communicate(timeout=180)
        assert job.returncode == 0, complaints
    done = [row.id for row in FeatureStore.open(out).ledger.rows() if row.outcome == "done"]
    assert sorted(done) == undisturbed.ids()
    assert_same(out, undisturbed)


def test_hosts_with_clocks_that_differ_share_a_store(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """Locks and revisions do not ask what time it is; ages of files only clean up leftovers."""
    out, some = tmp_path / "features", tmp_path / "some"
    some.mkdir()
    for path in sorted(videos.iterdir())[:3]:
        shutil.copy2(path, some)
    assert extract([some], out, backbone=TOY).exit_code == 0
    for path in [*out.rglob("*.safetensors"), *out.rglob("*.jsonl")]:
        os.utime(path, (time.time() + 86_400, time.time() + 86_400))  # from a host a day ahead
    finish(videos, out)
    assert_same(out, undisturbed)


def test_a_polite_kill_of_a_job_on_a_cluster_leaves_the_cluster_alive(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    with Cluster(tmp_path, workers=1, delay=0.2) as cluster:
        job = start_extract(videos, out, scheduler=cluster.address, delay=0.2)
        wait_for(lambda: ledger_count(out, "started") > 0)
        job.send_signal(signal.SIGTERM)
        _, complaints = job.communicate(timeout=60)
        assert job.returncode == 130, complaints
        again = start_extract(videos, out, scheduler=cluster.address, delay=0.01)
        _, complaints = again.communicate(timeout=120)
        assert again.returncode == 0, complaints
    assert_same(out, undisturbed)
