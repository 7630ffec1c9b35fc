"""What a report says of videos that were left to another process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY
from fixtures.media import run_ffmpeg
from workflows.extraction.orphans import LEFT, await_orphans, judge_orphans
from workflows.extraction.presence import present
from workflows.extraction.report import BUSY, EXTRACTED, ExtractReport, ExtractRow
from workflows.extraction.run import extract
from workflows.extraction.task import ExtractJob


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """With one.mp4 in it, but not two.mp4."""
    path = tmp_path / "one.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=gray:s=64x48:r=10:d=2", "-c:v", "libx264", path)
    shutil.copy(path, tmp_path / "two.mp4")
    assert extract([path], tmp_path / "features", backbone=TOY).counts["done"] == 1
    return FeatureStore.open(tmp_path / "features")


def jobs(store: FeatureStore, *, overwrite: bool = False) -> list[ExtractJob]:
    return [
        ExtractJob(
            f"{name}.mp4", str(store.path.parent / f"{name}.mp4"), str(store.path), TOY,
            "cpu", "auto", overwrite,
        )
        for name in ("one", "two")
    ]  # fmt: skip


def rows(store: FeatureStore) -> list[ExtractRow]:
    return [ExtractRow(job.id, job.path, "skipped", reason=BUSY) for job in jobs(store)]


@pytest.mark.parametrize("another", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_what_is_stored_is_done_and_what_is_not_is_told(
    store: FeatureStore, another: bool, ours: bool
) -> None:
    one, two = judge_orphans(rows(store), jobs(store), store, others=lambda: another, ours=ours)
    if ours:
        assert one.outcome == "done" and one.steps > 0 and one.media_seconds == 2.0
    else:
        assert (one.outcome, one.reason) == ("skipped", "another process has extracted it")
    expected = ("skipped", BUSY) if another else ("failed", LEFT)
    assert (two.outcome, two.reason) == expected
    assert ExtractReport([one, two], 1.0).exit_code == (0 if another else 1)


def test_only_what_is_not_stored_is_tried_again(store: FeatureStore) -> None:
    left = await_orphans(jobs(store), rows(store), store, seconds=0.0)
    assert [job.id for job in left] == ["two.mp4"]
    left = await_orphans(jobs(store, overwrite=True), rows(store), store, seconds=0.0)
    assert [job.id for job in left] == ["one.mp4", "two.mp4"]


def test_a_run_is_not_another_one_to_itself(store: FeatureStore) -> None:
    with present(store) as others:
        assert not others()


@pytest.mark.parametrize("ours", [True, False])
def test_what_a_worker_of_this_run_had_stored_before_it_died_counts_as_done(
    store: FeatureStore, ours: bool
) -> None:
    """Dask runs its task again, which finds the video in the store."""
    told = [replace(row, reason=EXTRACTED) for row in rows(store)[:1]]
    (one,) = judge_orphans(told, jobs(store), store, others=lambda: False, ours=ours)
    assert one.outcome == ("done" if ours else "skipped") and (one.steps > 0) == ours
