"""Run many independent tasks: one after the other here, or on the workers of Dask.

Dask is imported in this module only, and only when it is asked for. The scheduler carries tasks of
a few hundred bytes and their small results; whatever is large goes to disk. It may die: what
counts is the ledger that tasks write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from extractors.interruption import interrupted_by
from pipeline.core.cores import core_count
from pipeline.core.errors import EnvironmentFault, UsageError
from workflows.dispatch import ABANDONED_S, WORKERS_S, Ended, Items, Workers, dispatch
from workflows.machine import local_gpus
from workflows.tasks import TaskResult, guarded

Item = TypeVar("Item")
Value = TypeVar("Value")

CONNECT_S = 15.0
COLLECT_S = 30.0  # for a result of some bytes
FINISH_S = 20.0  # for tasks of a worker at the end of its lifetime: Dask gives it 30 s
LEAVE_S = 6.0  # for tasks that were asked to leave: a nanny that was told to end kills after 8 s
GPU = "GPU"  # the resource that a worker with a GPU offers: dask worker ... --resources GPU=1
NAME = "davel"  # of our tasks and plugins, on schedulers and workers that others use, too
QUIET = ("distributed.worker", "distributed.nanny", "distributed.scheduler", "distributed.client")

log = logging.getLogger(__name__)


def run_tasks(
    task: Callable[[Item], Value],
    items: Items[Item],
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
            given a function that says whether the tasks get a GPU, by what is known when it is
            called.
        scheduler: ``serial`` runs in this process; ``dask`` starts worker processes on this
            machine; anything with ``://`` or a port is the address of a running Dask scheduler.
        workers: Number of processes for ``dask``; None for one per core, or one per GPU. On a
            running cluster the number of workers that it may grow to: so many tasks are kept in
            flight even while there are fewer, as an adaptive cluster starts workers only for
            tasks that wait.
        use_gpus: Whether the task wants a GPU where there is one. ``dask`` then starts a process
            for each GPU of this machine, which sees that one only; on a running cluster only
            workers that offer the resource ``GPU`` get tasks, from when one does.
        announce: Called once with the address of the cluster's dashboard, where it has one.
        divide: Asked, each time a worker died under an item, for what to run in place of it: the
            same once more, or smaller ones; the item is given up where there is nothing. Without
            this it is given up after the second death.

    Yields:
        One result per item, in the order in which they end.

    Raises:
        UsageError: Unknown scheduler, or ``workers`` that do not fit it.
        EnvironmentFault: The cluster does not start, cannot be reached, has no workers for long,
            or its scheduler goes away.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers} is below 1")
    if scheduler == "serial":
        if workers not in (None, 1):
            raise UsageError(
                f"workers={workers} with the serial scheduler", hint="use --scheduler dask"
            )
        made = items(lambda: use_gpus and bool(local_gpus())) if callable(items) else items
        return (guarded(task, item) for item in made)
    if scheduler == "dask" or ":" in scheduler:
        place = Place(None if scheduler == "dask" else scheduler, workers, use_gpus)
        return _run_on_dask(task, items, place, announce, divide)
    raise UsageError(
        f"unknown scheduler {scheduler!r}",
        hint="use serial, dask, or the address of a Dask scheduler such as tcp://10.0.0.1:8786",
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks run: see `run_tasks`; ``address`` is None for workers of our own."""

    address: str | None
    workers: int | None
    use_gpus: bool


def _run_on_dask(
    task: Callable[[Item], Value],
    items: Items[Item],
    place: Place,
    announce: Callable[[str], None] | None,
    divide: Callable[[Item], Sequence[Item]] | None,
) -> Generator[TaskResult[Item, Value], None, None]:
    with _client(place) as client:
        if announce is not None and client.dashboard_link:
            announce(str(client.dashboard_link))
        at_least = 0 if place.address is None else place.workers or 0
        cluster = _DaskCluster(client, task)
        yield from dispatch(
            cluster, items, at_least=at_least, use_gpus=place.use_gpus, divide=divide
        )


class _DaskCluster:
    """A running cluster; see `workflows.dispatch.Cluster`."""

    def __init__(self, client: Any, task: Callable[[Any], Any]) -> None:
        self._client = client
        self._task = task
        self._prefix = f"{NAME}-{getattr(task, '__name__', 'task')}"

    def workers(self) -> Workers:
        with self._answering():
            found = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return Workers(
            threads=sum(worker["nthreads"] for worker in found),
            gpus=int(sum(worker["resources"].get(GPU, 0) for worker in found)),
        )

    def submit(self, item: Any, *, on_gpu: bool, ended: Callable[[Any], None]) -> Any:
        with self._answering():
            future = self._client.submit(
                _at_worker,
                self._task,
                item,
                key=f"{self._prefix}-{uuid.uuid4().hex}",
                retries=0,
                resources={GPU: 1} if on_gpu else None,
            )
            future.add_done_callback(ended)
        return future

    def collect(self, handle: Any, *, ended: Callable[[Any], None]) -> Ended | None:
        from distributed import KilledWorker

        with self._answering():
            if handle.status in ("cancelled", "lost"):
                raise _gone()
            result = None
            try:
                error: BaseException | None = handle.exception(timeout=COLLECT_S)
                if error is None:
                    result = handle.result(timeout=COLLECT_S)
            except KilledWorker as killed:  # a worker died with the result, and the next one again
                error = killed
            except TimeoutError:
                if self._client.status != "running":
                    raise
                handle.add_done_callback(ended)  # a worker died with the result: it is made again
                return None
            handle.release()
        return Ended(result, error=error, killed=isinstance(error, KilledWorker))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say what it means when the scheduler does not answer, in whatever way that shows."""
        try:
            yield
        except (OSError, KeyError, RuntimeError, CancelledError, asyncio.CancelledError) as error:
            raise _gone() from error
        if self._client.status not in ("running", "connecting"):
            raise _gone()


def _gone() -> EnvironmentFault:
    return EnvironmentFault(
        "the Dask scheduler is gone",
        hint="start it again and run the same command: what was done is kept",
    )


@contextmanager
def _client(place: Place) -> Iterator[Any]:
    """A client whose cluster has one worker at least."""
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
        _await_worker(client, on_demand=place.address is not None)
        if place.address is not None:
            _let_deaths_be_told(client)
        yield client


def _await_worker(client: Any, *, on_demand: bool) -> None:
    """Wait for the first worker of a cluster.

    One without any is handed an empty task: an adaptive cluster starts some for it, which may
    stand in the queue of a machine room for long.
    """
    begun, limit = time.monotonic(), ABANDONED_S if on_demand else WORKERS_S
    warned = False
    wake = client.submit(int, pure=False)
    while True:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            if time.monotonic() - begun >= limit:
                start = "start some with: dask worker ADDRESS --nthreads 1"
                raise EnvironmentFault(
                    f"the Dask scheduler has had no worker for {limit:g} s",
                    hint=start if on_demand else "use --scheduler serial",
                ) from error
            if not warned:
                log.warning("there has been no worker for %g s; still waiting", WORKERS_S)
            warned = True
        except OSError as error:
            raise _gone() from error
        else:
            wake.release()
            return


def _let_deaths_be_told(client: Any) -> None:
    """Make the scheduler give up a task of ours, and say so, at the first death of its worker.

    ``allowed-failures`` is a setting of the scheduler, for all that use it, and 3 where nobody
    changed it. So a task of ours starts with as many failures as are allowed. A scheduler that
    takes no plugins does as it is set: a death is told late then, but the ledger knows of each.
    """
    from distributed import SchedulerPlugin

    prefix = f"{NAME}-"

    class DeathsAreTold(SchedulerPlugin):  # travels by value: the scheduler need not have us
        idempotent = True

        def update_graph(self, scheduler: Any, *, keys: Any, **rest: Any) -> None:
            for key in keys:
                if str(key).startswith(prefix):
                    scheduler.tasks[key].suspicious = scheduler.allowed_failures

    try:
        client.register_plugin(DeathsAreTold(), name=f"{prefix}deaths-are-told")
    except OSError as error:
        raise _gone() from error
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        log.info("the scheduler tells deaths by its own setting: %s", error)


def _at_worker(task: Callable[[Item], Value], item: Item) -> TaskResult[Item, Value]:
    """Run a task in a worker; when that closes, the task is asked to leave as by Ctrl-C.

    Dask hands it to another worker then, and kills this one after some seconds. At the end of a
    lifetime there is time for a task that is nearly done: what it has written counts.
    """
    from distributed import Reschedule, get_worker

    leaving = _leaving(get_worker())
    with leaving.in_flight(), interrupted_by(leaving.asked):
        try:
            return guarded(task, item)
        except KeyboardInterrupt:
            if not leaving.asked.is_set():
                raise
            raise Reschedule from None


def _age() -> float:
    """Seconds since this process was started."""
    import psutil  # type: ignore[import-untyped]  # Dask brings it

    return time.time() - float(psutil.Process().create_time())


_asking = threading.Lock()


def _leaving(worker: Any) -> Any:
    """What ends the tasks of a worker: its plugin, brought along by the first of them."""
    from distributed import WorkerPlugin

    class Leaving(WorkerPlugin):
        def __init__(self) -> None:
            self.asked = threading.Event()
            self._count = 0
            self._turn = threading.Lock()

        @contextmanager
        def in_flight(self) -> Iterator[None]:
            with self._turn:
                self._count += 1
            try:
                yield
            finally:
                with self._turn:
                    self._count -= 1

        async def teardown(self, worker: Any) -> None:
            if worker.lifetime and _age() > worker.lifetime:
                await self._ended(FINISH_S)
            self.asked.set()
            await self._ended(LEAVE_S)

        async def _ended(self, seconds: float) -> None:
            end = time.monotonic() + seconds
            while self._count and time.monotonic() < end:
                await asyncio.sleep(0.05)

    with _asking:
        found = worker.plugins.get(NAME)
        if found is None:
            found = Leaving()
            added = asyncio.run_coroutine_threadsafe(
                worker.plugin_add(found, name=NAME), worker.loop.asyncio_loop
            )
            with contextlib.suppress(TimeoutError):  # it is closing already
                added.result(timeout=LEAVE_S)
    return found


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


def _settings() -> dict[str, Any]:
    return {
        "distributed.scheduler.allowed-failures": 0,  # `dispatch` counts
        # No task waits on a busy worker: when that dies, only its own task is to blame.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.comm.timeouts.connect": f"{CONNECT_S:g}s",
        "distributed.admin.log-format": "%(message)s",
    }
