"""Clusters that grow, shrink and renew their workers while videos are extracted."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY
from tests.torture.processes import ROOT, Cluster, environment, start_extract, wait_for
from tests.torture.stores import assert_same
from workflows.extraction.run import extract
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
    # Six videos of 2.5 s on two workers: no worker lives long enough for its half of them.
    with Cluster(tmp_path, workers=2, delay=2.5, options=renewing) as cluster:
        job = start_extract(videos, out, scheduler=cluster.address, delay=2.5)
        _, complaints = job.communicate(timeout=200)
    assert job.returncode == 0, complaints
    assert len(writers(out)) > 2  # processes, from two workers
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


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


def answer(links: list[str]) -> int:
    (link,) = links
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/status", link)
    with urllib.request.urlopen(link, timeout=30) as page:
        return int(page.status)
