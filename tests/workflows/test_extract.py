from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import workflows.extraction.run as extract_module
import workflows.extraction.task as task_module
from extractors.registry import BackboneRow
from extractors.spec import Backbone
from extractors.storage.store import FeatureStore
from extractors.stream import extract_features
from extractors.windows import WindowGrid
from fixtures.backbones import COUNTED_TOY, DEADLY_TOY, SLOW_TOY, TOY, toy
from fixtures.media import run_ffmpeg
from pipeline.core.errors import (
    EnvironmentFault,
    MediaError,
    NothingMatchedError,
    OutOfMemoryFault,
    StoreError,
    UsageError,
)
from pipeline.core.ledger import LedgerRow
from workflows.extraction.report import BUSY, ExtractRow
from workflows.extraction.run import ExtractReport, extract
from workflows.extraction.task import ExtractJob, extract_one

ROOT = Path(__file__).parents[2]
CLIPS = {"green.mp4": "lime", "sub/blue.mp4": "blue", "sub/grey.mp4": "gray", "white.mp4": "white"}


def make_clip(path: Path, colour: str, *, seconds: float = 2, sound: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = ["-f", "lavfi", "-i", f"color={colour}:s=64x48:r=10:d={seconds}"]
    tone = ["-f", "lavfi", "-i", f"sine=440:d={seconds}", "-c:a", "aac"] if sound else []
    codec = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    run_ffmpeg(*picture, *tone, *codec, path)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four good videos."""
    folder = tmp_path_factory.mktemp("clips")
    for name, colour in CLIPS.items():
        make_clip(folder / name, colour)
    return folder


@pytest.fixture
def videos(clips: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may change."""
    return Path(shutil.copytree(clips, tmp_path / "videos"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features"


def run(*inputs: str | Path, out: Path, backbone: BackboneRow = TOY, **options) -> ExtractReport:
    return extract(inputs, out, backbone=backbone, **options)


def outcomes(report: ExtractReport) -> dict[str, str]:
    return {row.id: row.outcome for row in report.rows}


def add_bad_files(folder: Path) -> None:
    """One of each kind of file that cannot be used."""
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "noise.mkv").write_bytes(random.Random(0).randbytes(20_000))
    data = (folder / "green.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])  # its index is at the end


def data_files(store: Path) -> dict[str, bytes]:
    parts = ("store.json", "videos/*.safetensors", "shards/*.safetensors")
    return {str(f.relative_to(store)): f.read_bytes() for part in parts for f in store.glob(part)}


def test_a_folder_becomes_a_store(videos: Path, out: Path) -> None:
    report = run(videos, out=out)
    assert outcomes(report) == dict.fromkeys(sorted(CLIPS), "done")
    assert report.exit_code == 0
    assert report.counts["done"] == 4
    assert report.media_seconds == pytest.approx(8.0, abs=0.2)
    store = FeatureStore.open(out)
    assert store.ids() == sorted(CLIPS)
    for row in report.rows:
        ours, direct = store.read(row.id), extract_features(videos / row.id, toy())
        assert ours.steps == row.steps == 5
        assert ours.summary == direct.summary
        assert all(np.array_equal(ours[name], direct[name]) for name in direct.arrays)
    assert {row.outcome for row in store.ledger.latest().values()} == {"done"}


@pytest.mark.parametrize("at_once", [1, 2])
def test_tasks_are_told_paths_that_hold_in_every_folder_and_the_report_says_the_given_ones(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Workers of a cluster seldom run in the folder of the command."""
    told: list[ExtractJob] = []

    def listen(job: ExtractJob) -> ExtractRow:
        told.append(job)
        return extract_one(job)

    monkeypatch.setattr("workflows.extraction.run.extract_one", listen)
    monkeypatch.chdir(videos.parent)
    given = Path(videos.name)
    report = run(given, out=Path(out.name), at_once=at_once)
    assert {job.path for job in told} == {str(path) for path in videos.rglob("*.mp4")}
    assert {job.store for job in told} == {str(videos.parent / out.name)}
    assert [row.path for row in report.rows] == sorted(str(path) for path in given.rglob("*.mp4"))
    assert set(outcomes(report).values()) == {"done"}


def test_bad_files_harm_no_other(videos: Path, out: Path) -> None:
    add_bad_files(videos)
    report = run(videos, videos / "gone.mp4", out=out)
    bad = {"empty.mp4", "text.mp4", "noise.mkv", "cut.mp4", "gone.mp4"}
    assert {id for id, outcome in outcomes(report).items() if outcome == "failed"} == bad
    assert {id for id, outcome in outcomes(report).items() if outcome == "done"} == set(CLIPS)
    assert report.exit_code == 1
    reasons = {row.id: row.reason for row in report.rows}
    assert "is empty" in reasons["empty.mp4"] and "does not exist" in reasons["gone.mp4"]
    assert all(reasons[id] for id in bad)
    table = report.format_table()
    assert "failed       empty.mp4: is empty" in table and "4 done, 5 failed" in table
    assert FeatureStore.open(out).ids() == sorted(CLIPS)


def test_a_second_run_skips_what_is_done_and_does_not_retry_what_failed(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bad_files(videos)
    run(videos, out=out)
    before = data_files(out)
    monkeypatch.setattr(extract_module, "extract_one", lambda job: pytest.fail(f"tried {job.id}"))
    report = run(videos, out=out)
    assert report.counts == {"done": 0, "partial": 0, "skipped": 4, "failed": 4, "quarantined": 0}
    assert report.exit_code == 1
    assert all("failed before" in row.reason for row in report.rows if row.outcome == "failed")
    assert data_files(out) == before


def test_a_changed_file_is_extracted_again_and_a_touched_one_is_not(
    videos: Path, out: Path
) -> None:
    run(videos, out=out)
    os.utime(videos / "white.mp4", (1, 1))
    shutil.copyfile(videos / "sub" / "blue.mp4", videos / "green.mp4")
    report = run(videos, out=out)
    assert {id for id, outcome in outcomes(report).items() if outcome == "done"} == {"green.mp4"}
    store = FeatureStore.open(out)
    assert np.array_equal(store.read("green.mp4")["vision"], store.read("sub/blue.mp4")["vision"])
    assert store.record("green.mp4").revision == 1


def test_a_failed_file_is_retried_when_asked_and_when_it_changed(videos: Path, out: Path) -> None:
    add_bad_files(videos)
    run(videos, out=out)
    assert outcomes(run(videos, out=out, retry_failed=True))["text.mp4"] == "failed"
    shutil.copyfile(videos / "green.mp4", videos / "text.mp4")
    report = run(videos, out=out)
    assert outcomes(report)["text.mp4"] == "done"
    assert sum(row.outcome == "done" for row in report.rows) == 1


def test_overwrite_does_everything_again(videos: Path, out: Path) -> None:
    run(videos, out=out)
    report = run(videos, out=out, overwrite=True)
    assert report.counts["done"] == 4
    assert FeatureStore.open(out).record("green.mp4").revision == 1


def test_a_limit_counts_what_is_left_to_do(videos: Path, out: Path) -> None:
    report = run(videos, out=out, limit=3)
    assert report.counts["done"] == 3 and report.counts["skipped"] == 1
    report = run(videos, out=out, limit=3)
    assert report.counts["done"] == 1 and report.counts["skipped"] == 3
    with pytest.raises(UsageError, match="limit=0"):
        run(videos, out=out, limit=0)


def test_a_dry_run_counts_and_writes_nothing(videos: Path, out: Path) -> None:
    (videos / "text.mp4").write_text("no video")
    report = run(videos, out=out, dry_run=True)
    assert report.plan is not None
    assert (report.plan.videos, report.plan.steps) == (4, 20)
    assert report.plan.seconds == pytest.approx(8.0, abs=0.2)
    assert not out.exists()
    assert "4 videos to extract" in report.format_table() and report.exit_code == 1
    assert report.plan.free is not None and "has room for" not in report.format_table()
    full = replace(report, plan=replace(report.plan, free=report.plan.bytes - 1))
    assert full.format_table().endswith(f"the disk has room for {report.plan.bytes - 1} B only")
    run(videos, out=out, limit=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    report = run(videos, out=out, dry_run=True)
    assert report.plan is not None and report.plan.videos == 3
    assert report.counts["skipped"] == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_planned_bytes_are_what_the_arrays_take(videos: Path, out: Path) -> None:
    plan = run(videos, out=out, dry_run=True).plan
    run(videos, out=out)
    store = FeatureStore.open(out)
    arrays = [array for id in store.ids() for array in store.read(id).arrays.values()]
    assert plan is not None and plan.bytes == sum(array.nbytes for array in arrays)


def test_partial_and_silent_files_say_so(videos: Path, out: Path) -> None:
    make_clip(videos / "silent.mp4", "lime", sound=False)
    make_clip(videos / "long.mkv", "lime", seconds=10)
    data = (videos / "long.mkv").read_bytes()
    (videos / "long.mkv").write_bytes(data[: len(data) // 2])
    report = run(videos, out=out)
    rows = {row.id: row for row in report.rows}
    assert rows["silent.mp4"].outcome == "done" and rows["silent.mp4"].reason == "no audio stream"
    assert rows["long.mkv"].outcome == "partial"
    assert "the container promises 10" in rows["long.mkv"].reason
    assert report.exit_code == 0


def test_an_error_inside_a_net_costs_one_video(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = task_module.FeatureStream

    def broken(info, *arguments, **options):
        if info.path.name == "blue.mp4":
            raise RuntimeError("out of memory")
        return original(info, *arguments, **options)

    monkeypatch.setattr(task_module, "FeatureStream", broken)
    report = run(videos, out=out)
    rows = {row.id: row for row in report.rows}
    assert rows["sub/blue.mp4"].reason == "RuntimeError: out of memory"
    assert report.counts["done"] == 3
    monkeypatch.undo()
    report = run(videos, out=out, retry_failed=True)
    assert outcomes(report)["sub/blue.mp4"] == "done" and report.exit_code == 0


def test_a_net_without_room_costs_one_video_and_says_so_in_words(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = task_module.FeatureStream

    def crowded(info, *arguments, **options):
        if info.path.name == "blue.mp4":
            raise OutOfMemoryFault("the machine has too little memory", hint="run fewer")
        return original(info, *arguments, **options)

    monkeypatch.setattr(task_module, "FeatureStream", crowded)
    report = run(videos, out=out)
    rows = {row.id: row for row in report.rows}
    assert rows["sub/blue.mp4"].outcome == "failed"
    assert rows["sub/blue.mp4"].reason == "the machine has too little memory (run fewer)"
    assert report.counts["done"] == 3


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), EnvironmentFault),
        (EnvironmentFault("no ffmpeg"), EnvironmentFault),
    ],
)
def test_what_every_video_would_meet_ends_the_run(
    videos: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type,
    at_once: int,
) -> None:
    tried = []

    def broken(*_: object, **__: object) -> None:
        tried.append(1)
        raise error

    monkeypatch.setattr(task_module, "FeatureStream", broken)
    with pytest.raises(expected):
        run(videos, out=out, at_once=at_once)
    assert 1 <= len(tried) <= at_once
    monkeypatch.undo()
    assert run(videos, out=out).counts["done"] == 4  # it was no crash and no failure of the file


def test_a_file_that_is_gone_when_its_turn_comes_costs_itself(videos: Path, out: Path) -> None:
    (videos / "gone.mp4").symlink_to(videos / "nowhere.mp4")
    report = run(videos / "gone.mp4", videos / "green.mp4", out=out)
    assert outcomes(report) == {"gone.mp4": "failed", "green.mp4": "done"}
    assert {row.id: row.reason for row in report.rows}["gone.mp4"] == "does not exist"


def test_a_file_that_only_the_worker_cannot_open_ends_the_run(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        try:
            raise PermissionError(path)
        except PermissionError as error:
            raise MediaError(path, "cannot be read: permission denied") from error

    monkeypatch.setattr(task_module, "fingerprint", refuse)
    with pytest.raises(EnvironmentFault, match=r"permission denied on the worker .* read here"):
        run(videos, out=out)
    assert list(FeatureStore.open(out).ledger.rows()) == []
    monkeypatch.undo()
    assert run(videos, out=out).counts["done"] == len(CLIPS)


def test_two_deaths_set_a_video_aside(videos: Path, out: Path) -> None:
    store = FeatureStore.create(out, TOY.spec)
    store.ledger.append(LedgerRow("green.mp4", "started"))
    store.ledger.append(LedgerRow("white.mp4", "started"))
    store.ledger.append(LedgerRow("white.mp4", "started"))
    for _ in range(2):  # and it stays aside
        report = run(videos, out=out)
        assert outcomes(report)["white.mp4"] == "quarantined"
        assert report.exit_code == 1
        assert "died 2 times" in report.format_table()
    assert FeatureStore.open(out).get("green.mp4") is not None
    report = run(videos, out=out, retry_failed=True)
    assert outcomes(report)["white.mp4"] == "done"
    assert outcomes(run(videos, out=out))["white.mp4"] == "skipped"


@pytest.mark.parametrize("answered_for", [True, False], ids=["another run", "nobody"])
def test_a_video_that_another_process_extracts_is_left_to_it(
    videos: Path, out: Path, answered_for: bool
) -> None:
    """Whose run has a video answers for it; one that no run has is not done, and that is said."""
    FeatureStore.create(out, TOY.spec)
    script = (
        "import contextlib, sys\nfrom extractors.storage.store import FeatureStore\n"
        "from workflows.extraction.presence import present\n"
        "store = FeatureStore.open(sys.argv[1])\n"
        "run = present(store) if sys.argv[2] == 'True' else contextlib.nullcontext()\n"
        "with run, store.claim('green.mp4'):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(out), str(answered_for)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout is not None and child.stdout.readline()
    report = run(videos, out=out)
    rows = {row.id: row for row in report.rows}
    if answered_for:
        assert report.exit_code == 0 and rows["green.mp4"].outcome == "skipped"
        assert "skipped      green.mp4: another process is extracting it" in report.format_table()
    else:
        assert report.exit_code == 1 and rows["green.mp4"].outcome == "failed"
        assert "no running job answers for" in report.format_table()
    child.kill()
    child.wait()
    assert outcomes(run(videos, out=out))["green.mp4"] == "done"


def test_another_backbone_is_refused(videos: Path, out: Path) -> None:
    run(videos, out=out)
    other = BackboneRow(toy(unit="window").spec, TOY.load)
    with pytest.raises(StoreError, match="use another folder"):
        run(videos, out=out, backbone=other)
    with pytest.raises(StoreError, match="use another folder"):
        run(videos, out=out, backbone=other, dry_run=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "light"}, "did you mean 'lite'"),
        ({"reader": "gstreamer"}, "unknown video reader"),
        ({"scheduler": "spark"}, "unknown scheduler"),
    ],
)
def test_a_typo_is_refused_before_anything_is_done(
    videos: Path, out: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(videos, out=out, **options)  # type: ignore[arg-type]


def test_nothing_to_extract_is_told(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingMatchedError):
        run(tmp_path / "empty", out=out)
    assert not out.exists()


def test_small_files_are_joined_when_there_are_enough(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "PACK_VIDEOS", 4)
    run(videos, out=out)
    assert len(list((out / "shards").iterdir())) == 1
    assert not list((out / "videos").iterdir())
    assert run(videos, out=out).counts["skipped"] == 4


def test_dask_gives_the_store_that_serial_gives(videos: Path, out: Path, tmp_path: Path) -> None:
    add_bad_files(videos)
    report = run(videos, out=out, scheduler="dask", workers=2)
    serial = run(videos, out=tmp_path / "serial")
    assert outcomes(report) == outcomes(serial)
    assert [row.id for row in report.rows] == [row.id for row in serial.rows]
    assert data_files(out) == data_files(tmp_path / "serial")


def test_each_worker_loads_the_nets_once_for_all_its_videos(
    videos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = tmp_path / "loads"
    monkeypatch.setenv("TOY_LOADS", str(loads))
    report = run(videos, out=out, backbone=COUNTED_TOY, scheduler="dask", workers=2)
    assert report.counts["done"] == len(CLIPS) > 2
    processes = loads.read_text().split()
    assert 1 <= len(processes) == len(set(processes)) <= 2
    assert str(os.getpid()) not in processes


def test_a_video_that_kills_its_workers_is_quarantined_and_the_others_are_done(
    videos: Path, out: Path
) -> None:
    make_clip(videos / "red.mp4", "red")
    report = run(videos, out=out, backbone=DEADLY_TOY, scheduler="dask", workers=2)
    assert outcomes(report) == {**dict.fromkeys(CLIPS, "done"), "red.mp4": "quarantined"}
    assert report.exit_code == 1
    assert outcomes(run(videos, out=out, backbone=DEADLY_TOY))["red.mp4"] == "quarantined"


SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and in one behind nohup
sys.path.append("tests")
from fixtures.backbones import SLOW_TOY
from workflows.extraction.run import extract
if __name__ == "__main__":
    scheduler = sys.argv[3]
    workers = 2 if scheduler == "dask" else None
    print("begun", flush=True)
    try:
        extract([sys.argv[1]], sys.argv[2], backbone=SLOW_TOY, scheduler=scheduler, workers=workers)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start_run(videos: Path, out: Path, scheduler: str, delay: float) -> subprocess.Popen[str]:
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.Popen(
        [sys.executable, str(script), str(videos), str(out), scheduler],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TOY_DELAY_S": str(delay), "PYTHONPATH": paths},
        start_new_session=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "begun\n"
    return child


def starts(out: Path) -> int:
    """Number of attempts that were ever begun."""
    rows = [path.read_text() for path in (out / "ledger").glob("*.jsonl")]
    return sum(text.count('"started"') for text in rows)


def wait_for_start(out: Path, child: subprocess.Popen[str], *, before: int) -> None:
    """Until another video is being extracted."""
    while starts(out) == before:
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_and_run_again_it_is_as_if_never_killed(
    videos: Path, out: Path, tmp_path: Path, seed: int
) -> None:
    undisturbed = tmp_path / "undisturbed"
    run(videos, out=undisturbed)
    moment = random.Random(seed)
    for _ in range(2):
        before = starts(out)
        child = start_run(videos, out, "serial", delay=0.6)  # two at once: 1.2 s for the four clips
        wait_for_start(out, child, before=before)
        time.sleep(moment.uniform(0, 1.0))  # so the next round has at least one video to start
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    report = run(videos, out=out, retry_failed=True)
    assert report.exit_code == 0
    assert data_files(out) == data_files(undisturbed)


@pytest.mark.parametrize(
    ("scheduler", "number"),
    [
        ("serial", signal.SIGINT),
        ("serial", signal.SIGTERM),
        ("serial", signal.SIGHUP),  # the terminal is gone
        ("dask", signal.SIGINT),
        ("dask", signal.SIGTERM),
    ],
)
def test_an_interrupt_ends_in_good_order_and_counts_as_no_crash(
    videos: Path, out: Path, scheduler: str, number: signal.Signals
) -> None:
    for _ in range(2):
        before = starts(out)
        child = start_run(videos, out, scheduler, delay=3.0)
        wait_for_start(out, child, before=before)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as a terminal does: to the workers as well
        else:
            os.kill(child.pid, number)
        _, complaints = child.communicate(timeout=60)
        assert child.returncode == 130, (complaints, list(FeatureStore.open(out).ledger.rows()))
    report = run(videos, out=out)
    assert report.exit_code == 0
    assert set(outcomes(report).values()) <= {"done", "skipped"}
    assert FeatureStore.open(out).ids() == sorted(CLIPS)


def test_two_runs_at_once_share_the_work(videos: Path, out: Path) -> None:
    children = [start_run(videos, out, "serial", delay=0.1) for _ in range(2)]
    for child in children:
        _, complaints = child.communicate(timeout=120)
        assert child.returncode == 0, complaints
    store = FeatureStore.open(out)
    assert store.ids() == sorted(CLIPS)
    done = [row.id for row in store.ledger.rows() if row.outcome == "done"]
    assert sorted(done) == sorted(CLIPS)  # each exactly once
    assert list(store.verify()) == []


def test_the_report_is_json_and_a_table() -> None:
    row = ExtractRow("a.mp4", "x/a.mp4", "done", steps=37, media_seconds=3700.0, seconds=2.0)
    report = ExtractReport([row, replace(row, id="b.mp4", outcome="skipped")], 37.0)
    assert (
        report.format_table() == "1 done, 1 skipped; 1:01:40 of video in 37.0 s, 100.0 x real time"
    )
    value = json.loads(json.dumps(report.to_json()))
    assert value["counts"]["done"] == 1 and value["videos"][0]["steps"] == 37
    assert ExtractReport([], 1.0).format_table() == "nothing to do"


def test_a_slow_toy_gives_what_the_toy_gives() -> None:
    assert SLOW_TOY.spec == TOY.spec == DEADLY_TOY.spec


def test_a_video_whose_holder_dies_during_the_run_is_not_left_undone(
    videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker that its scheduler has given up, and that is still at the video."""
    FeatureStore.create(out, TOY.spec)
    script = (
        "import sys, time\nfrom extractors.storage.store import FeatureStore\n"
        "with FeatureStore.open(sys.argv[1]).claim('green.mp4'):\n"
        "    print('held', flush=True)\n    time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None and child.stdout.readline()
    settle, reasons = extract_module.await_orphans, []

    def end_the_holder(jobs, rows, store, *, seconds):
        reasons.extend(row.reason for row in rows if row.id == "green.mp4")
        child.kill()
        child.wait()
        return settle(jobs, rows, store, seconds=seconds)

    monkeypatch.setattr(extract_module, "await_orphans", end_the_holder)
    report = run(videos, out=out)
    child.stdout.close()
    assert reasons[0] == BUSY
    assert outcomes(report) == dict.fromkeys(sorted(CLIPS), "done")


OTHER_GRID = WindowGrid(fps=Fraction(16), window=16, stride=8, sample_rate=16_000)


def load_other_toy(*, device: str, threads: int | None) -> Backbone:
    return toy(grid=OTHER_GRID)


OTHER_TOY = BackboneRow(toy(grid=OTHER_GRID).spec, load_other_toy)


@pytest.mark.parametrize("backbones", [(TOY, OTHER_TOY, TOY), (TOY, TOY, TOY)])
def test_a_store_that_is_made_again_in_its_place_gets_all_videos(
    videos: Path, out: Path, backbones: tuple[BackboneRow, ...]
) -> None:
    """Whatever this process remembers of the folder that was there."""
    for backbone in backbones:
        report = run(videos, out=out, backbone=backbone)
        assert outcomes(report) == dict.fromkeys(sorted(CLIPS), "done")
        store = FeatureStore.open(out, digest=backbone.spec.digest)
        assert store.ids() == sorted(CLIPS)
        assert list(store.verify()) == []
        assert run(videos, out=out, backbone=backbone).counts["skipped"] == len(CLIPS)
        shutil.rmtree(out)


def test_nets_whose_features_are_not_the_stores_write_nothing(videos: Path, out: Path) -> None:
    """As on a worker that has another version of the program."""
    changed = BackboneRow(TOY.spec, load_other_toy)
    with pytest.raises(StoreError, match=rf"{OTHER_TOY.spec.digest}.*the same version"):
        run(videos, out=out, backbone=changed)
    store = FeatureStore.open(out)
    assert store.ids() == [] and not list(out.glob("*/*.safetensors"))
    assert store.ledger.latest("started") == {}
    assert run(videos, out=out).counts["done"] == len(CLIPS)


def test_weights_that_changed_since_the_last_run_are_loaded_again(
    videos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, row in enumerate((TOY, OTHER_TOY, TOY)):
        spec = replace(row.spec, name="lite")
        nets = replace(row.load(device="cpu", threads=None), spec=spec)
        monkeypatch.setattr(extract_module, "backbone_spec", lambda name, spec=spec, **_: spec)
        monkeypatch.setattr(task_module, "load_backbone", lambda name, nets=nets, **_: nets)
        report = extract([videos / "green.mp4"], tmp_path / str(number), backbone="lite")
        assert outcomes(report) == {"green.mp4": "done"}
        found = FeatureStore.open(tmp_path / str(number)).read("green.mp4")
        expected = extract_features(videos / "green.mp4", nets)
        assert found.digest == expected.digest == spec.digest
        assert np.array_equal(found["audio"], expected["audio"])


def test_an_interrupt_says_nothing_of_what_another_job_on_the_store_is_at(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "SETTLE_S", 0.2)
    store = FeatureStore.create(out, TOY.spec)
    store.ledger.append(LedgerRow("of a dead run", "started"))
    since = store.ledger.ends()
    for id in ("ours", "theirs", "of no job"):
        store.ledger.append(LedgerRow(id, "started"))
    script = (
        "import sys\nfrom extractors.storage.store import FeatureStore\n"
        "with FeatureStore.open(sys.argv[1]).claim('theirs'):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    jobs = [
        ExtractJob(id, id, str(out), TOY, "cpu", "auto", overwrite=False)
        for id in ("ours", "theirs", "never begun", "of a dead run")
    ]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None and child.stdout.readline()
        extract_module._note_interrupted(jobs, store, since)
        latest = {id: row.outcome for id, row in store.ledger.latest().items()}
        assert latest == {
            "ours": "skipped",
            "theirs": "started",
            "of no job": "started",
            "of a dead run": "started",
        }
        child.communicate()
    extract_module._note_interrupted(jobs, store, since)  # nobody is at it any more
    assert store.ledger.latest()["theirs"].reason == "interrupted"
