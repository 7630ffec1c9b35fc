"""Run many independent tasks: one after the other here, or on the workers of Dask.

Dask is imported in this module only, and only when it is asked for. The scheduler carries tasks of
a few hundred bytes and their small results; whatever is large goes to disk. It may die: what
counts is the ledger that tasks write.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.core.errors import EnvironmentFault, UsageError

Item = TypeVar("Item")
Value = TypeVar("Value")

DEATHS = 2  # workers that a task may take with it before it is given up
CONNECT_S = 15.0
GPU = "GPU"  # the resource that a worker with a GPU offers: dask worker ... --resources GPU=1
QUIET = ("distributed.worker", "distributed.nanny", "distributed.scheduler", "distributed.client")
WORKERS_S = 120.0  # a cluster that starts its workers on demand needs a moment


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[Item, Value]):
    """How one task ended.

    Attributes:
        item: What it was given.
        value: What it returned; None where it did not.
        error: What it raised.
        died: Its worker died under it, twice.
        seconds: How long it took.
    """

    item: Item
    value: Value | None = None
    error: BaseException | None = None
    died: bool = False
    seconds: float = 0.0


def run_tasks(
    task: Callable[[Item], Value],
    items: Iterable[Item] | Callable[[bool], Iterable[Item]],
    *,
    scheduler: str = "serial",
    workers: int | None = None,
    use_gpus: bool = False,
    announce: Callable[[str], None] | None = None,
    divide: Callable[[Item], Sequence[Item]] | None = None,
) -> Generator[TaskResult[Item, Value], None, None]:
    """Run ``task`` on each item and yield results as they come.

    A task that raises, or takes its worker with it, gives a result that says so; the others go on.
    Closing the iterator, or an interrupt, ends the workers that were started here.

    Args:
        task: A function that can be imported by name, with state of its own only per process.
        items: What it is given, one each: plain values that can be pickled. Or what makes them,
            told whether the tasks get a GPU.
        scheduler: ``serial`` runs in this process; ``dask`` starts worker processes on this
            machine; anything with ``://`` or a port is the address of a running Dask scheduler.
        workers: Number of processes for ``dask``; None for one per core, or one per GPU. On a
            running cluster the number of workers that it may grow to: so many tasks are kept in
            flight even while there are fewer, as an adaptive cluster starts workers only for
            tasks that wait.
        use_gpus: Whether the task wants a GPU where there is one. ``dask`` then starts a process
            for each GPU of this machine, which sees that one only; on a running cluster only
            workers that offer the resource ``GPU`` get tasks, if any does.
        announce: Called once with the address of the cluster's dashboard, where it has one.
        divide: Asked for smaller items to run in place of one whose worker died under it twice;
            the item is given up where there are none, and without this.

    Yields:
        One result per item, in the order in which they end.

    Raises:
        UsageError: Unknown scheduler, or ``workers`` that do not fit it.
        EnvironmentFault: The cluster does not start, or cannot be reached, or has no workers.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers} is below 1")
    if scheduler == "serial":
        if workers not in (None, 1):
            raise UsageError(
                f"workers={workers} with the serial scheduler", hint="use --scheduler dask"
            )
        made = items(use_gpus and bool(local_gpus())) if callable(items) else items
        return (guarded(task, item) for item in made)
    if scheduler == "dask" or ":" in scheduler:
        place = Place(None if scheduler == "dask" else scheduler, workers, use_gpus)
        return _run_on_dask(task, items, place, announce, divide)
    raise UsageError(
        f"unknown scheduler {scheduler!r}",
        hint="use serial, dask, or the address of a Dask scheduler such as tcp://10.0.0.1:8786",
    )


def core_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def guarded(task: Callable[[Item], Value], item: Item) -> TaskResult[Item, Value]:
    """Run one task; the one place where any error becomes a result.

    Args:
        task: What to run.
        item: What it is given.

    Raises:
        KeyboardInterrupt: And what else is no ``Exception``.
    """
    started = time.perf_counter()
    try:
        value = task(item)
    except Exception as error:  # one bad item must not end the others, whatever is wrong with it
        seconds = time.perf_counter() - started
        return TaskResult(item, error=_portable(error), seconds=seconds)
    return TaskResult(item, value, seconds=time.perf_counter() - started)


def _portable(error: Exception) -> Exception:
    """The error itself, or one of the same words where it cannot cross to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # pickling may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks run: see `run_tasks`; ``address`` is None for workers of our own."""

    address: str | None
    workers: int | None
    use_gpus: bool


def _run_on_dask(
    task: Callable[[Item], Value],
    items: Iterable[Item] | Callable[[bool], Iterable[Item]],
    place: Place,
    announce: Callable[[str], None] | None,
    divide: Callable[[Item], Sequence[Item]] | None,
) -> Generator[TaskResult[Item, Value], None, None]:
    """Keep one task per worker in flight, so that a dying worker blames nobody else's.

    How many workers there are is asked again after each task: clusters grow and shrink.
    """
    from distributed import KilledWorker, as_completed

    with _client(place) as client:
        if announce is not None and client.dashboard_link:
            announce(str(client.dashboard_link))
        at_least = place.workers if place.address is not None else None
        resources = _resources(client) if place.use_gpus else None
        waiting = iter(items(resources is not None) if callable(items) else items)
        parts: deque[Item] = deque()
        running: dict[Any, Item] = {}
        done = as_completed(loop=client.loop)
        more = True
        while True:
            width = max(_width(client, resources), at_least or 0)
            while more and len(running) < width:
                more = False
                for item in chain(_drained(parts), waiting):
                    future = client.submit(
                        guarded, task, item, pure=False, retries=0, resources=resources
                    )
                    running[future] = item
                    done.add(future)
                    more = True
                    break
            if not running:
                return
            future = next(done)
            item = running.pop(future)
            error = _error_of(future, client)
            if error is None:
                yield future.result()
            else:
                died = isinstance(error, KilledWorker)
                smaller = divide(item) if died and divide is not None else ()
                if smaller:
                    parts.extend(smaller)
                    more = True
                else:
                    yield TaskResult(item, error=error, died=died)
            future.release()


def _drained(items: deque[Item]) -> Iterator[Item]:
    while items:
        yield items.popleft()


def _error_of(future: Any, client: Any) -> BaseException | None:
    """What a finished task raised.

    Raises:
        EnvironmentFault: The scheduler is gone, and the task's end with it.
    """
    if future.status in ("cancelled", "lost") or client.status not in ("running", "connecting"):
        raise EnvironmentFault(
            "the Dask scheduler is gone",
            hint="start it again and run the same command: what was done is kept",
        )
    error: BaseException | None = future.exception()
    return error


@contextmanager
def _client(place: Place) -> Iterator[Any]:
    """A client whose cluster has one worker at least.

    A cluster without workers is handed an empty task first: an adaptive one starts some for it.
    """
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_settings()))
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told in results
        if place.address is None:
            cluster = stack.enter_context(_local_cluster(place.workers, use_gpus=place.use_gpus))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        else:
            try:
                client = stack.enter_context(
                    Client(place.address, timeout=CONNECT_S, set_as_default=False)
                )
            except (OSError, TimeoutError, ValueError) as error:
                raise EnvironmentFault(
                    f"no Dask scheduler answers at {place.address}",
                    hint="check the address; dask scheduler prints it when it starts",
                ) from error
        try:
            wake = client.submit(int, pure=False)
            client.wait_for_workers(1, timeout=WORKERS_S)
            wake.release()
        except TimeoutError as error:
            raise EnvironmentFault(
                f"the Dask scheduler has had no worker for {WORKERS_S:g} s",
                hint="start some with: dask worker ADDRESS --nthreads 1",
            ) from error
        yield client


def local_gpus() -> list[str]:
    """Numbers or names of the GPUs that this process may use, without asking their driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    devices = sorted(
        int(path.name.removeprefix("nvidia"))
        for path in Path("/dev").glob("nvidia*")
        if path.name.removeprefix("nvidia").isdigit()
    )
    return [str(number) for number in range(len(devices))]


def _local_cluster(workers: int | None, *, use_gpus: bool) -> Any:
    """Worker processes of one thread each: one for each GPU, else as many as asked or as cores."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = local_gpus() if use_gpus else []
    count = workers or len(gpus) or core_count()
    threads = str(max(1, core_count() // count))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    common = dict.fromkeys(names, threads)
    specs = {}
    for number in range(count):
        mine = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        options = {
            "nthreads": 1,
            "memory_limit": 0,
            "env": {**common, **mine},
            "resources": {GPU: 1} if gpus else {},
            "dashboard_address": None,
            "silence_logs": logging.CRITICAL,
        }
        specs[number] = {"cls": Nanny, "options": options}
    try:
        return SpecCluster(
            workers=specs,
            scheduler={
                "cls": Scheduler,
                "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0},
            },
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise EnvironmentFault(
            f"worker processes cannot be started: {error}", hint="use --scheduler serial"
        ) from error


def _resources(client: Any) -> dict[str, float] | None:
    """What a task must find at its worker: a GPU where any worker offers one."""
    offers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {GPU: 1} if any(worker["resources"].get(GPU, 0) >= 1 for worker in offers) else None


def _width(client: Any, resources: dict[str, float] | None) -> int:
    """Number of tasks to keep in flight: one for each thread, or for each GPU that is offered."""
    if resources is None:
        return max(1, sum(client.nthreads().values()))
    offers = client.scheduler_info(n_workers=-1)["workers"].values()
    return max(1, int(sum(worker["resources"].get(GPU, 0) for worker in offers)))


def _settings() -> dict[str, Any]:
    return {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        # No task waits on a busy worker: when that dies, only its own task is to blame.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.comm.timeouts.connect": f"{CONNECT_S:g}s",
        "distributed.admin.log-format": "%(message)s",
    }
