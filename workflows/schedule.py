"""Run many independent tasks: one after the other here, or on the workers of Dask.

Dask is imported in this module only, and only when it is asked for. The scheduler carries tasks of
a few hundred bytes and their small results; whatever is large goes to disk. It may die: what
counts is the ledger that tasks write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

from extractors.interruption import interrupted_by
from pipeline.core.cores import core_count
from pipeline.core.errors import EnvironmentFault, UsageError
from workflows.dispatch import Ended, Items, Workers, dispatch
from workflows.leaving import LEAVE_S, Leaving
from workflows.machine import local_gpus
from workflows.tasks import TaskResult, guarded, wanted_while
from workflows.waiting import await_worker, gone

Item = TypeVar("Item")
Value = TypeVar("Value")

CONNECT_S = 15.0
COLLECT_S = 30.0  # for a result of some bytes
GPU = "GPU"  # the resource that a worker with a GPU offers: dask worker ... --resources GPU=1
NAME = "davel"  # of our tasks and plugins, on schedulers and workers that others use, too
TLS = (
    "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, and __CLIENT__CERT and __CLIENT__KEY likewise, to "
    "the files that the scheduler was started with"
)
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
        paused = [worker for worker in found if worker["status"] == "paused" and not _works(worker)]
        able = [worker for worker in found if worker not in paused]
        return Workers(
            threads=sum(worker["nthreads"] for worker in able),
            gpus=int(sum(worker["resources"].get(GPU, 0) for worker in able)),
            paused=len(paused),
        )

    def submit(self, item: Any, *, on_gpu: bool, ended: Callable[[Any], None]) -> Any:
        from distributed.protocol.pickle import dumps, loads

        with self._answering():
            future = self._client.submit(
                loads,
                dumps(_Call(self._task, item)),
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
                raise gone()
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
            raise gone() from error
        if self._client.status not in ("running", "connecting"):
            raise gone()


@contextmanager
def _client(place: Place) -> Iterator[Any]:
    """A client whose cluster has one worker at least."""
    import dask
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_settings()))
        if place.address is not None:
            _check_address(place.address)
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
            except (OSError, ImportError) as error:
                raise EnvironmentFault(
                    f"the Dask scheduler at {place.address} does not take us: {error}",
                    hint="give every machine the same versions",
                ) from error
        await_worker(client, on_demand=place.address is not None)
        if place.address is not None:
            _let_deaths_be_told(client)
        yield client


def _check_address(address: str) -> None:
    """Refuse what a client would fail at in other words, after half a minute or never.

    Raises:
        UsageError: It is no address, or that of a worker.
        EnvironmentFault: Nobody answers, or Dask's configuration does not name the certificates
            that it takes.
    """
    from distributed import Security
    from distributed.comm import get_address_host_port

    if address.startswith("inproc://"):  # a cluster in this very process
        return

    try:
        get_address_host_port(address)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"{address!r} is no address of a Dask scheduler: {error}",
            hint="it looks like tcp://10.0.0.1:8786; dask scheduler prints it when it starts",
        ) from error
    try:
        context = Security().get_connection_args("client")["ssl_context"]
    except OSError as error:
        raise EnvironmentFault(
            f"the certificates that Dask's configuration names cannot be used: {error}", hint=TLS
        ) from error
    if context is None and address.startswith("tls://"):
        raise EnvironmentFault(f"{address} needs certificates", hint=TLS)
    try:
        kind = asyncio.run(asyncio.wait_for(_kind(address, context), CONNECT_S))
    except Exception as error:  # what listens there may be anything, and may say anything
        raise EnvironmentFault(
            f"no Dask scheduler answers at {address}",
            hint="check the address; dask scheduler prints it when it starts, with tls:// where it "
            "wants certificates",
        ) from error
    if kind in ("Worker", "Nanny"):
        raise UsageError(
            f"{address} is a {kind.lower()} of Dask, not a scheduler",
            hint="give the address that the worker was started with",
        )


async def _kind(address: str, context: Any) -> str:
    """What listens at an address, in its own words."""
    from distributed.comm import connect

    comm = await connect(address, timeout=CONNECT_S, ssl_context=context)
    try:
        await comm.write({"op": "identity", "reply": True})
        return str((await comm.read())["type"])
    finally:
        comm.abort()


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
        raise gone() from error
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        log.info("the scheduler tells deaths by its own setting: %s", error)


def _works(worker: dict[str, Any]) -> bool:
    """Whether a worker, as the scheduler describes it, is at a task."""
    return bool(worker["metrics"].get("task_counts", {}).get("executing"))


class _Call(Generic[Item, Value]):
    """A task on its way to a worker, where unpickling it runs it.

    A worker of Dask that cannot unpickle a task ends, and so does the next one that gets it. What
    travels as bytes and is unpickled as the task itself costs an error that can be told.
    """

    def __init__(self, task: Callable[[Item], Value], item: Item) -> None:
        self._task = task
        self._item = item

    def __reduce__(self) -> tuple[Any, ...]:
        return _at_worker, (_version(), self._task, self._item)


def _version() -> str:
    try:
        return version("davel-pipeline")
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"


def _at_worker(asked: str, task: Callable[[Item], Value], item: Item) -> TaskResult[Item, Value]:
    """Run a task in a worker; when that closes, the task is asked to leave as by Ctrl-C.

    Dask hands it to another worker then, and kills this one after some seconds. At the end of a
    lifetime there is time for a task that is nearly done: what it has written counts.

    Raises:
        EnvironmentFault: This is another version of the program than the one that asks.
    """
    from distributed import Reschedule, get_worker

    if (here := _version()) != asked:
        raise EnvironmentFault(
            f"the worker on {socket.gethostname()} has version {here} of this program, the command "
            f"has {asked}",
            hint="give every machine the same version",
        )
    worker = get_worker()
    leaving, ours = _leaving(worker), worker.get_current_task()

    def is_wanted() -> bool:
        known = worker.state.tasks.get(ours)
        return known is not None and known.state != "cancelled"  # as when its client is gone

    with leaving.in_flight(), interrupted_by(leaving.asked), wanted_while(is_wanted):
        try:
            return guarded(task, item)
        except KeyboardInterrupt:
            if not leaving.asked.is_set():
                raise
            raise Reschedule from None


_asking = threading.Lock()


def _leaving(worker: Any) -> Any:
    """What ends the tasks of a worker: its plugin, brought along by the first of them."""
    from distributed import WorkerPlugin

    class LeavingPlugin(Leaving, WorkerPlugin):
        """As Dask wants it."""

    with _asking:
        found = worker.plugins.get(NAME)
        if found is None:
            found = LeavingPlugin()
            adding = worker.plugin_add(found, name=NAME)
            # Where it is closing already.
            with contextlib.suppress(TimeoutError, CancelledError, RuntimeError):
                added = asyncio.run_coroutine_threadsafe(adding, worker.loop.asyncio_loop)
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
