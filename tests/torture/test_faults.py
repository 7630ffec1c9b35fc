"""Disks that are full, locked, slow or absent, and nets that hang.

Each ends in a typed error or in clean completion; nothing is torn; when the fault is gone, the same
command does the rest and the store is that of an undisturbed run.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extractors.registry import BackboneRow
from extractors.storage.feature_file import UnreadableError
from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY, load_hanging_toy
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault, PipelineError, UsageError
from tests.torture import sized
from tests.torture.flaky import flaky_folder
from tests.torture.mounts import SmallDisk, small_disk
from tests.torture.processes import ROOT, environment
from tests.torture.stores import assert_same, assert_sound
from workflows.extraction.run import extract
from workflows.extraction.watchdog import Watchdog

HANGING_TOY = BackboneRow(TOY.spec, load_hanging_toy)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.mark.parametrize("pages", range(0, 13, sized(6, 1)))
def test_a_disk_that_fills_up_at_any_moment(
    videos: Path, undisturbed: FeatureStore, disk: SmallDisk, pages: int
) -> None:
    """The fewer pages are free, the earlier it happens: before the store, or in the nth video."""
    out = disk.path / "features"
    disk.fill(leave=pages)
    with pytest.raises(EnvironmentFault, match=r"cannot be written: No space left") as caught:
        extract([videos], out, backbone=TOY)
    assert "make room and run the same command again" in str(caught.value)
    if (out / "store.json").exists():
        assert_sound(out)
    disk.make_room()
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_sound(out)
    assert_same(out, undisturbed)


def test_a_disk_that_fills_up_under_workers_ends_the_run_once(
    videos: Path, undisturbed: FeatureStore, disk: SmallDisk
) -> None:
    out = disk.path / "features"
    disk.fill(leave=8)
    with pytest.raises(EnvironmentFault, match="No space left"):
        extract([videos], out, backbone=TOY, scheduler="dask", workers=2)
    disk.make_room()
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


def test_a_disk_that_is_full_while_small_files_are_joined_loses_none(
    videos: Path, undisturbed: FeatureStore, disk: SmallDisk
) -> None:
    out = disk.path / "features"
    extract([videos], out, backbone=TOY)
    ends = []
    for pages in range(8):
        disk.fill(leave=pages)
        try:
            ends.append(FeatureStore.open(out).pack())
        except OSError as error:
            assert error.errno == errno.ENOSPC
            ends.append(-1)
        assert_same(out, undisturbed)  # read on a full disk, the index included
        disk.make_room()
    assert ends[0] == -1 and len(undisturbed) in ends
    assert_sound(out)
    assert_same(out, undisturbed)


def test_a_locked_disk_is_told_before_anything_is_done(
    videos: Path, undisturbed: FeatureStore, disk: SmallDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    out = disk.path / "features"
    with disk.locked() as view:
        assert main(["extract", str(videos), "--out", str(view / "features")]) == 3
    said = capsys.readouterr().err
    assert "Read-only file system" in said and "--out" in said and "internal error" not in said
    extract([videos], out, backbone=TOY, limit=2)
    with disk.locked() as view:
        with pytest.raises(EnvironmentFault, match="Read-only file system"):
            extract([videos], view / "features", backbone=TOY)
        assert len(FeatureStore.open(view / "features")) == 2  # what is there can be read
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


def test_a_finished_store_on_a_locked_disk_is_read_and_needs_no_work(
    videos: Path, undisturbed: FeatureStore, disk: SmallDisk
) -> None:
    out = disk.path / "features"
    extract([videos], out, backbone=TOY)
    FeatureStore.open(out).pack()
    (out / "index.sqlite").unlink()
    with disk.locked() as view:
        report = extract([videos], view / "features", backbone=TOY)
        assert report.counts["skipped"] == len(undisturbed) and report.exit_code == 0
        assert_same(view / "features", undisturbed)


def test_a_slow_network_folder_only_takes_longer(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    with flaky_folder(out, delay=0.005) as folder:
        assert extract([videos], out, backbone=TOY).exit_code == 0
        FeatureStore.open(out).pack()
    assert folder.asked > 100
    assert_same(out, undisturbed)


@pytest.mark.parametrize("seed", range(sized(4, 40)))
def test_a_network_folder_that_fails_now_and_then(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, seed: int
) -> None:
    """Every run ends in good order; once the folder answers, one more does the rest."""
    out = tmp_path / "features"
    failed = 0
    for attempt in range(3):
        with flaky_folder(out, share=0.02, seed=10 * seed + attempt) as folder:
            try:
                report = extract([videos], out, backbone=TOY)
                bad = [row for row in report.rows if row.outcome == "failed"]
                assert all("Error" in row.reason for row in bad)
                FeatureStore.open(out).pack()
            except (PipelineError, OSError) as error:
                assert isinstance(error, PipelineError) or error.errno in (5, 116), error
        failed += folder.failed
    assert failed > 0
    assert extract([videos], out, backbone=TOY, retry_failed=True).exit_code == 0
    assert_same(out, undisturbed)


def test_extraction_itself_never_lets_an_absent_folder_out_as_a_bare_error(
    videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    for seed in range(sized(6, 60)):
        with flaky_folder(out, share=0.3, seed=seed):
            try:
                extract([videos], out, backbone=TOY, limit=1)
            except PipelineError as error:
                assert "Input/output error" in str(error) or "Stale file handle" in str(error)


def test_repair_deletes_nothing_while_the_disk_does_not_answer(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    extract([videos], out, backbone=TOY)
    store = FeatureStore.open(out)
    with flaky_folder(out / "videos", share=1.0):
        with pytest.raises((UnreadableError, OSError)):
            store.repair()
        with pytest.raises((UnreadableError, OSError)):
            store.ids()
    with flaky_folder(next((out / "videos").iterdir()), share=1.0):
        (damage,) = store.verify()
        assert not damage.readable
        with pytest.raises(UnreadableError, match="nothing was repaired"):
            store.repair()
    assert_same(out, undisturbed)


def test_a_shard_that_cannot_be_read_just_now_is_not_forgotten(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """An index made meanwhile must not call it damaged: its videos would be missed for good."""
    out = tmp_path / "features"
    extract([videos], out, backbone=TOY)
    FeatureStore.open(out).pack()
    (out / "index.sqlite").unlink()
    (shard,) = (out / "shards").iterdir()
    store = FeatureStore.open(out)
    with flaky_folder(shard, share=1.0), pytest.raises((UnreadableError, OSError)):
        store.ids()
    assert_same(out, undisturbed)


SCRIPT = """
import sys
sys.path.append("tests")
from tests.torture.test_faults import HANGING_TOY
from workflows.extraction.run import extract
if __name__ == "__main__":
    report = extract([sys.argv[1]], sys.argv[2], backbone=HANGING_TOY, patience=4.0,
                     scheduler=sys.argv[3], workers=2 if sys.argv[3] == "dask" else None)
    sys.exit(report.exit_code)
"""


def run_hanging(videos: Path, out: Path, scheduler: str) -> subprocess.CompletedProcess[str]:
    script = out.parent / "hang.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(videos), str(out), scheduler]
    return subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=environment(0), timeout=120
    )


def test_a_net_that_hangs_ends_its_process_and_is_set_aside_after_two(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    for _ in range(2):
        ended = run_hanging(videos, out, "serial")
        assert ended.returncode == 3, ended.stderr
        assert "lime.mp4: no progress for 4 s" in ended.stderr
    ended = run_hanging(videos, out, "serial")
    assert ended.returncode == 1, ended.stderr
    assert FeatureStore.open(out).ids() == [id for id in undisturbed.ids() if id != "lime.mp4"]
    assert extract([videos], out, backbone=TOY, retry_failed=True).exit_code == 0
    assert_same(out, undisturbed)


def test_a_net_that_hangs_on_a_worker_costs_one_video(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    out = tmp_path / "features"
    ended = run_hanging(videos, out, "dask")
    assert ended.returncode == 1, ended.stderr
    store = FeatureStore.open(out)
    assert store.ids() == [id for id in undisturbed.ids() if id != "lime.mp4"]
    assert store.ledger.latest()["lime.mp4"].outcome == "quarantined"
    assert extract([videos], out, backbone=TOY, retry_failed=True).exit_code == 0
    assert_same(out, undisturbed)


def test_progress_keeps_the_watchdog_quiet(videos: Path) -> None:
    with Watchdog("slow work", patience=0.4) as watchdog:
        for _ in range(8):
            time.sleep(0.1)
            watchdog.pat()
    time.sleep(0.6)  # and it ends with its work: this process is still there
    assert os.getpid()


@pytest.mark.parametrize("patience", [0.0, -1.0])
def test_no_patience_at_all_is_refused(videos: Path, tmp_path: Path, patience: float) -> None:
    with pytest.raises(UsageError, match="patience="):
        extract([videos], tmp_path / "features", backbone=TOY, patience=patience)


def test_verify_does_not_call_damaged_what_it_could_not_read(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    extract([videos], out, backbone=TOY)
    path = next((out / "videos").iterdir())
    with flaky_folder(path, share=1.0):
        assert main(["features", "verify", str(out)]) == 1
        assert main(["features", "repair", str(out)]) == 2
    said = capsys.readouterr()
    assert f"no word  {path}" in said.out and "takes them out" not in said.out
    assert "nothing was repaired" in said.err and path.exists()
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["features", "verify", str(out)]) == 1
    assert f"damaged  {path}" in capsys.readouterr().out
    assert main(["features", "repair", str(out)]) == 1
    assert not path.exists()
