"""Keep the workers of a cluster busy with items, and notice when nobody is left to work.

Nothing here knows Dask: a `Cluster` says who is there, takes tasks and tells how they ended.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pipeline.core.errors import EnvironmentFault
from workflows.tasks import TaskResult

Item = TypeVar("Item")
Value = TypeVar("Value")

DEATHS = 2  # workers that a task may take with it before it is given up
LOOK_S = 1.0  # between two looks at who is there
REST = 20  # times as long as a look took: one at thousands of workers takes a while
WORKERS_S = 120.0  # a cluster that starts its workers on demand needs a moment
ABANDONED_S = 3600.0  # a queue for machines may be long, but somebody should know

Divide = Callable[[Item], Sequence[Item]]
Items = Iterable[Item] | Callable[[Callable[[], bool]], Iterable[Item]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workers:
    """Who is there.

    Attributes:
        threads: Tasks that all workers together can run at once.
        gpus: GPUs that they offer together.
        paused: Workers beside these that take no tasks, for lack of memory.
    """

    threads: int
    gpus: int
    paused: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a submitted task ended.

    Attributes:
        result: What the task itself says; None where it could not.
        error: Why it could not.
        killed: Whether that is because its worker died; else the worker cannot run any task.
    """

    result: TaskResult[Any, Any] | None = None
    error: BaseException | None = None
    killed: bool = False


class Cluster(Protocol):
    """Processes that run tasks; each method raises EnvironmentFault when their scheduler is gone.

    A worker's death is told each time, never made good for silently: whoever asks keeps count.
    """

    def workers(self) -> Workers:
        """Who is there now."""

    def submit(self, item: Any, *, on_gpu: bool, ended: Callable[[Any], None]) -> Any:
        """Hand out an item; returns a handle, which ``ended`` is called with in any thread."""

    def collect(self, handle: Any, *, ended: Callable[[Any], None]) -> Ended | None:
        """How it ended; None where that takes longer: ``ended`` is called with it once more."""


@dataclass(frozen=True, slots=True)
class _Try(Generic[Item]):
    item: Item
    deaths: int = 0


def dispatch(
    cluster: Cluster,
    items: Items[Item],
    *,
    at_least: int = 0,
    use_gpus: bool = False,
    divide: Divide[Item] | None = None,
) -> Generator[TaskResult[Item, Any], None, None]:
    """Keep one task per worker in flight, so that a dying worker blames nobody else's.

    Args:
        cluster: Where they run.
        items: See `workflows.schedule.run_tasks`.
        at_least: Tasks to keep in flight even when there are fewer workers.
        use_gpus: Whether only workers with a GPU get tasks, from when one is there.
        divide: See `workflows.schedule.run_tasks`.

    Yields:
        One result per item, in the order in which they end.

    Raises:
        EnvironmentFault: The scheduler is gone, there has been no worker for an hour, or one cannot
            run the task, whatever the item.
    """
    hands = _Hands(cluster, at_least=at_least, use_gpus=use_gpus)
    hands.look()  # before the items are made: they ask for it
    waiting = iter(items(lambda: hands.on_gpu) if callable(items) else items)
    again: deque[_Try[Item]] = deque()
    running: dict[Any, _Try[Item]] = {}
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    while True:
        width = hands.look()
        while len(running) < width and (each := _next(again, waiting)) is not None:
            running[cluster.submit(each.item, on_gpu=hands.on_gpu, ended=ended.put)] = each
        if not running:
            return
        try:
            handle = ended.get(timeout=LOOK_S)
        except queue.Empty:
            continue
        told = cluster.collect(handle, ended=ended.put)
        if told is None:
            continue
        each = running.pop(handle)
        if told.result is not None:
            yield told.result
        elif not told.killed:
            raise _unable(told.error)
        else:
            deaths = each.deaths + 1
            smaller = _after_death(each.item, deaths, divide)
            again.extend(_Try(item, deaths) for item in smaller)
            if not smaller:
                yield TaskResult(each.item, error=told.error, deaths=deaths)


def _unable(error: BaseException | None) -> EnvironmentFault:
    """A task tells its own errors as a result; what else goes wrong says nothing of its item."""
    if isinstance(error, EnvironmentFault):
        return error
    return EnvironmentFault(
        f"a worker of the Dask cluster cannot run this program: {type(error).__name__}: {error}",
        hint="give every machine the same version of it, in the Python that runs the worker",
    )


def _next(again: deque[_Try[Item]], waiting: Iterator[Item]) -> _Try[Item] | None:
    if again:
        return again.popleft()
    for item in waiting:
        return _Try(item)
    return None


def _after_death(item: Item, deaths: int, divide: Divide[Item] | None) -> Sequence[Item]:
    """What to run in place of an item whose worker died."""
    if divide is not None:
        return divide(item)
    return () if deaths >= DEATHS else (item,)


class _Hands:
    """How many workers there are, and whether they have GPUs; clusters grow and shrink.

    Attributes:
        on_gpu: Whether tasks are for workers with a GPU only. That stays so from when one was
            there: a worker without would need many times as long for the last videos.
    """

    def __init__(self, cluster: Cluster, *, at_least: int, use_gpus: bool) -> None:
        self.on_gpu = False
        self._cluster = cluster
        self._at_least = at_least
        self._use_gpus = use_gpus
        self._count = 0
        self._next_look = float("-inf")
        self._alone_since: float | None = None
        self._warned = False

    def look(self) -> int:
        """Number of tasks to keep in flight: one for each thread, or for each GPU on offer.

        Raises:
            EnvironmentFault: The scheduler is gone, or there has been no worker for an hour.
        """
        begun = time.monotonic()
        if begun >= self._next_look:
            found = self._cluster.workers()
            self.on_gpu = self.on_gpu or (self._use_gpus and found.gpus > 0)
            self._count = found.gpus if self.on_gpu else found.threads
            now = time.monotonic()
            self._next_look = now + max(LOOK_S, REST * (now - begun))
            self._notice(now, found.paused)
        return max(1, self._at_least, self._count)

    def _notice(self, now: float, paused: int) -> None:
        if self._count > 0:
            self._alone_since, self._warned = None, False
            return
        if self._alone_since is None:
            self._alone_since = now
        alone = now - self._alone_since
        what = "worker that offers a GPU" if self.on_gpu else "worker"
        if paused:
            what += f" with memory left ({paused} wait for some; see dask worker --memory-limit)"
        if alone > ABANDONED_S:
            raise EnvironmentFault(
                f"the Dask scheduler has had no {what} for {ABANDONED_S:g} s",
                hint="start some and run the same command again: what was done is kept"
                + ("; --device cpu takes workers without a GPU" if self.on_gpu else ""),
            )
        if alone > WORKERS_S and not self._warned:
            log.warning("there has been no %s for %g s; still waiting for one", what, WORKERS_S)
            self._warned = True
