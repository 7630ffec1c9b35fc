"""Workers that are not what docs/cluster.md asks for: the run says so, and blames no video."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from distributed import get_worker

from extractors.storage.store import FeatureStore
from fixtures.backbones import DEADLY_TOY, SLOW_TOY, TOY
from fixtures.media import run_ffmpeg
from pipeline.core.errors import EnvironmentFault, UsageError
from tests.torture.processes import (
    PATHS,
    Cluster,
    kill_group,
    ledger_count,
    start_extract,
    wait_for,
)
from tests.torture.stores import assert_same
from workflows.extraction.run import extract
from workflows.schedule import run_tasks
from workflows.tasks import wanted


@pytest.mark.parametrize("misfit", ["another PYTHONPATH", "another version"])
def test_a_worker_with_another_program_is_told_and_blames_no_video(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, misfit: str
) -> None:
    out, other = tmp_path / "features", tmp_path / "other"
    other.mkdir()
    if misfit == "another version":
        (other / "davel_pipeline-0.0.9.dist-info").mkdir()
        metadata = other / "davel_pipeline-0.0.9.dist-info" / "METADATA"
        metadata.write_text("Metadata-Version: 2.1\nName: davel-pipeline\nVersion: 0.0.9\n")
        words = "has version 0.0.9 of this program"
    else:
        (other / "workflows.py").write_text("")
        words = "cannot run this program: ModuleNotFoundError"
    paths = os.pathsep.join([str(other), PATHS])
    with Cluster(tmp_path, workers=1, delay=0.3) as cluster:
        cluster.add_worker(folder=other, others={"PYTHONPATH": paths})
        wait_for(lambda: "Registered to" in (tmp_path / "dask2.log").read_text())
        with pytest.raises(EnvironmentFault, match=words):
            extract([videos], out, backbone=SLOW_TOY, scheduler=cluster.address)
    assert ledger_count(out, "failed") == 0
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_worker_that_does_not_see_the_videos_is_told_before_it_fails_them_all(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a network folder is not mounted: such a worker would be faster than all others."""
    out = tmp_path / "features"
    monkeypatch.chdir(videos)
    with Cluster(tmp_path, workers=1) as cluster:
        with pytest.raises(EnvironmentFault, match="does not exist on the worker") as caught:
            extract(["/proc/self/cwd"], out, backbone=TOY, scheduler=cluster.address)
        assert "can be read here" in str(caught.value)
    assert ledger_count(out, "failed") == 0
    assert extract([videos], out, backbone=TOY).exit_code == 0
    assert_same(out, undisturbed)


def test_workers_that_wait_for_memory_are_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask gives one thread the memory of a machine divided by its cores, and then waits."""
    monkeypatch.setattr("workflows.waiting.WORKERS_S", 1.0)
    monkeypatch.setattr("workflows.waiting.ABANDONED_S", 4.0)
    small = ["--memory-limit", "50MB", "--no-nanny"]
    with Cluster(tmp_path, workers=1, options=small) as cluster:
        wait_for(lambda: "Pausing worker" in (tmp_path / "dask1.log").read_text())
        with pytest.raises(EnvironmentFault, match=r"no worker for 4 s .*--memory-limit 0"):
            list(run_tasks(abs, range(3), scheduler=cluster.address))


hoard: list[bytes] = []


def take_memory(item: int) -> int:
    """The first one takes some and keeps it, as nets do."""
    if not hoard:
        hoard.append(b"x" * (250 << 20))
    time.sleep(1.5)
    return item


def test_a_worker_that_runs_out_of_memory_is_none_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.dispatch.WORKERS_S", 1.0)
    monkeypatch.setattr("workflows.dispatch.ABANDONED_S", 8.0)
    small = ["--memory-limit", "330MB", "--no-nanny"]
    with Cluster(tmp_path, workers=1, options=small) as cluster:
        results = run_tasks(take_memory, range(9), scheduler=cluster.address)
        assert next(results).value == 0
        with pytest.raises(EnvironmentFault, match="1 wait for some; see dask worker --memory"):
            list(results)


def test_a_worker_of_many_threads_sets_only_the_deadly_video_aside(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """Those beside it die with it; each is tried alone then, though the worker has threads."""
    out, clips = tmp_path / "features", tmp_path / "clips"
    shutil.copytree(videos, clips)
    picture = ["-f", "lavfi", "-i", "color=red:s=64x48:r=10:d=2"]
    run_ffmpeg(*picture, "-c:v", "libx264", "-pix_fmt", "yuv420p", clips / "a red.mp4")
    with Cluster(tmp_path, workers=1, threads=4) as cluster:
        report = extract([clips], out, backbone=DEADLY_TOY, scheduler=cluster.address)
    bad = [(row.id, row.outcome) for row in report.rows if row.outcome != "done"]
    assert bad == [("a red.mp4", "quarantined")], report.format_table()
    assert_same(out, undisturbed)


def test_ctrl_c_in_the_terminal_of_a_worker_hands_its_videos_back(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path
) -> None:
    """The nanny, the worker and all decoders get it; another worker does the videos."""
    out = tmp_path / "features"
    with Cluster(tmp_path, workers=2, delay=1.0) as cluster:
        job = start_extract(videos, out, scheduler=cluster.address, delay=1.0, at_once=2)
        wait_for(lambda: (out / "ledger").is_dir() and ledger_count(out, "started") >= 4)
        nanny = psutil.Process(cluster.workers[0].pid)
        for process in [nanny, *nanny.children(recursive=True)]:
            process.send_signal(signal.SIGINT)
        cluster.workers[0].wait(60)
        _, complaints = job.communicate(timeout=120)
    assert job.returncode == 0, complaints
    assert ledger_count(out, "failed") == 0
    assert_same(out, undisturbed)


def wait_until_unwanted(folder: str) -> None:
    ask = wanted()
    (Path(folder) / "begun").touch()
    while ask():
        time.sleep(0.05)
    (Path(folder) / "unwanted").touch()


def test_a_task_can_tell_that_its_client_is_gone(tmp_path: Path) -> None:
    """Else a worker would go on with a whole group of videos that nobody waits for."""
    script = (
        "import sys\nfrom tests.torture.test_misfits import wait_until_unwanted\n"
        "from workflows.schedule import run_tasks\n"
        "list(run_tasks(wait_until_unwanted, [sys.argv[1]], scheduler=sys.argv[2]))\n"
    )
    with Cluster(tmp_path, workers=1) as cluster:
        client = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), cluster.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": PATHS},
            start_new_session=True,
        )
        wait_for((tmp_path / "begun").exists)
        time.sleep(0.5)
        assert not (tmp_path / "unwanted").exists()
        kill_group(client)
        wait_for((tmp_path / "unwanted").exists)


def place(item: int) -> tuple[str, bool]:
    """Which worker this is, and whether it offers a GPU."""
    time.sleep(0.5)
    worker = get_worker()
    return worker.address, bool(worker.state.total_resources)


def test_tasks_that_wait_at_a_gpu_are_stolen_by_workers_with_a_gpu_only(tmp_path: Path) -> None:
    with Cluster(tmp_path, workers=1, offer="GPU=1") as cluster:
        found: list[tuple[str, bool]] = []
        results = run_tasks(place, range(40), scheduler=cluster.address, use_gpus=True, workers=12)
        for result in results:
            if not found:  # eleven wait at the only worker: no other may run them
                cluster.add_worker()
                cluster.offer = ""
                cluster.add_worker()
                for number in (2, 3):
                    log = tmp_path / f"dask{number}.log"
                    wait_for(lambda log=log: "Registered to" in log.read_text())  # type: ignore[misc]
            assert result.value is not None, result.error
            found.append(result.value)
    assert len(found) == 40 and all(on_gpu for _, on_gpu in found)
    assert len({address for address, _ in found}) == 2


def test_the_address_of_something_else_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker, and of the dashboard, whose port is the next one to the scheduler's."""
    monkeypatch.setattr("workflows.schedule.CONNECT_S", 3.0)
    with Cluster(tmp_path, workers=1, dashboard=True) as cluster:
        links: list[str] = []
        results = run_tasks(abs, [-1], scheduler=cluster.address, announce=links.append)
        assert [result.value for result in results] == [1]
        log = (tmp_path / "dask1.log").read_text()
        (worker,) = re.findall(r"Start worker at: +(\S+)", log)
        with pytest.raises(UsageError, match=f"{worker} is a worker of Dask"):
            list(run_tasks(abs, [-1], scheduler=worker))
        (dashboard,) = re.findall(r"http://([^/]+)/", links[0])
        with pytest.raises(EnvironmentFault, match=f"no Dask scheduler answers at {dashboard}"):
            list(run_tasks(abs, [-1], scheduler=dashboard))


def test_what_is_no_dask_at_all_is_told_in_time() -> None:
    """Its first words would be taken for the length of a message: 3 EiB."""

    def greet() -> None:
        guest, _ = listener.accept()
        with guest:
            guest.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            guest.recv(64)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match=f"no Dask scheduler answers at {address}"):
            list(run_tasks(abs, [-1], scheduler=address))


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words for the command lines of Dask; this process's configuration names them as well."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with openssl, which is not on this machine")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=davel"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    for name, path in [
        ("CA_FILE", certificate),
        ("CLIENT__CERT", certificate),
        ("CLIENT__KEY", key),
    ]:
        monkeypatch.setenv(prefix + name, path)
    return ["--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key]


def test_a_cluster_with_certificates_is_used_as_documented(
    videos: Path, undisturbed: FeatureStore, tmp_path: Path, certificates: list[str]
) -> None:
    out = tmp_path / "features"
    with Cluster(tmp_path, workers=1, tls=certificates) as cluster:
        assert cluster.address.startswith("tls://")
        job = start_extract(videos, out, scheduler=cluster.address)
        _, complaints = job.communicate(timeout=120)
        assert job.returncode == 0, complaints
    assert_same(out, undisturbed)
