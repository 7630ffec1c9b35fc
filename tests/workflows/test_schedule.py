from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.cores import core_count
from pipeline.core.errors import EnvironmentFault, MediaError, UsageError
from workflows.machine import local_gpus
from workflows.schedule import run_tasks
from workflows.tasks import TaskResult

ROOT = Path(__file__).parents[2]


class StubbornError(Exception):
    """Cannot be sent to another process."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("not me")


def work(item: int) -> tuple[int, int, str]:
    """A task: most items are fine."""
    if item == 13:
        raise MediaError("x.mp4", "is damaged", hint="copy it again")
    if item == 14:
        raise StubbornError("odd")
    if item == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * 2, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def by_item(results: list[TaskResult]) -> dict[int, TaskResult]:
    assert len({result.item for result in results}) == len(results)
    return {result.item: result for result in results}


def test_serial_runs_here_in_order_and_survives_errors() -> None:
    results = list(run_tasks(work, [1, 13, 14, 2]))
    assert [result.item for result in results] == [1, 13, 14, 2]
    assert results[0].value == (2, os.getpid(), os.environ.get("OMP_NUM_THREADS", ""))
    assert isinstance(results[1].error, MediaError) and results[1].value is None
    assert str(results[2].error) == "StubbornError: odd"
    assert results[3].value[0] == 4 and not results[3].died


def test_serial_is_lazy() -> None:
    results = run_tasks(wait, iter([0.0, 1000.0]))
    assert next(results).value == 0.0
    results.close()


def test_an_interrupt_passes_through() -> None:
    def interrupt(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_tasks(interrupt, [1]))


@pytest.mark.parametrize(
    ("scheduler", "workers", "message"),
    [
        ("spark", None, "unknown scheduler 'spark'"),
        ("serial", 2, "workers=2 with the serial scheduler"),
        ("dask", 0, "workers=0 is below 1"),
    ],
)
def test_what_does_not_fit_is_refused(scheduler: str, workers: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(run_tasks(wait, [0.0], scheduler=scheduler, workers=workers))


def test_dask_gives_every_item_one_result_though_a_worker_dies() -> None:
    items = [*range(12), 13, 14, 15, 16, 17]
    results = by_item(list(run_tasks(work, items, scheduler="dask", workers=2)))
    assert sorted(results) == items
    for item in (*range(12), 16, 17):
        assert results[item].value is not None and results[item].value[0] == item * 2, item
    assert isinstance(results[13].error, MediaError)
    assert results[13].error.hint == "copy it again"
    assert str(results[14].error) == "StubbornError: odd"
    assert results[15].died and not results[13].died
    processes = {result.value[1] for result in results.values() if result.value}
    assert os.getpid() not in processes and len(processes) >= 2
    threads = max(1, core_count() // 2)
    assert {result.value[2] for result in results.values() if result.value} == {str(threads)}


def test_leaving_early_ends_the_workers() -> None:
    results = run_tasks(wait, [0.0, 600.0, 600.0], scheduler="dask", workers=1)
    started = time.monotonic()
    assert next(results).value == 0.0
    results.close()
    assert time.monotonic() - started < 60


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.schedule.CONNECT_S", 1.0)
    with pytest.raises(EnvironmentFault, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"):
        list(run_tasks(wait, [0.0], scheduler="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("http://127.0.0.1:8787", UsageError, "unknown address scheme 'http'"),
        ("tcp://127.0.0.1", UsageError, "missing port number"),
        ("host:port", UsageError, "is no address of a Dask scheduler"),
        ("tls://127.0.0.1:9", EnvironmentFault, "tls://127.0.0.1:9 needs certificates"),
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(
    address: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        list(run_tasks(wait, [0.0], scheduler=address))


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    import dask

    names = ("ca-file", "client.cert", "client.key")
    gone = {f"distributed.comm.tls.{name}": str(tmp_path / "gone.pem") for name in names}
    with (
        dask.config.set(gone),
        pytest.raises(EnvironmentFault, match="certificates that Dask's configuration names"),
    ):
        list(run_tasks(wait, [0.0], scheduler="tls://127.0.0.1:9"))


def test_a_running_cluster_is_used_by_its_address() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        results = list(run_tasks(wait, [0.0, 0.1], scheduler=cluster.scheduler_address))
    assert sorted(result.value for result in results) == [0.0, 0.1]


def test_neither_dask_nor_torch_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, workflows.schedule, workflows.inputs, workflows.extraction.run\n"
        "print([m for m in ('dask', 'distributed', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def see_gpu(item: int) -> tuple[int, str]:
    time.sleep(0.2)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def test_each_gpu_of_this_machine_has_a_process_that_sees_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    results = list(run_tasks(see_gpu, range(6), scheduler="dask", use_gpus=True))
    seen = {result.value for result in results if result.value}
    assert len(results) == 6 and sorted(gpu for _, gpu in seen) == ["3", "5"]


@pytest.mark.parametrize(("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-ab12", 1)])
def test_gpus_are_counted_as_the_driver_will_show_them(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(local_gpus()) == count


def test_on_a_cluster_only_workers_that_offer_a_gpu_get_gpu_tasks() -> None:
    from distributed import Scheduler, SpecCluster, Worker

    specs = {
        number: {"cls": Worker, "options": {"nthreads": 1, "resources": offer, "name": name}}
        for number, (name, offer) in enumerate([("cpu", {}), ("gpu", {"GPU": 1})])
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1", "port": 0}}
    with SpecCluster(workers=specs, scheduler=scheduler) as cluster:
        address = cluster.scheduler_address
        found = list(run_tasks(worker_name, range(4), scheduler=address, use_gpus=True))
        plain = list(run_tasks(worker_name, range(6), scheduler=address))
    assert {result.value for result in found} == {"gpu"}
    assert {result.value for result in plain} == {"cpu", "gpu"}


def worker_name(item: int) -> str:
    from distributed import get_worker

    time.sleep(0.2)
    return str(get_worker().name)


def interrupt_own_process(item: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    return os.getpid()


def test_a_worker_leaves_ctrl_c_to_its_nanny() -> None:
    """In a terminal both get it; closing each other they would stand still until one is killed."""
    found = list(run_tasks(interrupt_own_process, range(3), scheduler="dask", workers=1))
    assert len({result.value for result in found}) == 1
