"""Several tasks at once in the threads of this process, as long as somebody takes their results.

What the tasks share, such as a loaded net, sees to its own order. Signals reach only the main
thread: when it stops taking results, the threads are asked to leave (`extractors.interruption`).
Where whoever takes the results is a thread that was asked to leave itself, it passes that on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from extractors.interruption import POLL_S, check_interruption, interrupted_by, interruption
from workflows.tasks import TaskResult, guarded

Item = TypeVar("Item")
Value = TypeVar("Value")

GRACE_S = 15.0  # for threads that were asked to leave; whoever kills politely waits half a minute

log = logging.getLogger(__name__)


def run_side_by_side(
    task: Callable[[Item], Value],
    items: Iterable[Item],
    *,
    at_once: int,
    ends_all: Callable[[BaseException], bool] | None = None,
) -> Generator[TaskResult[Item, Value], None, None]:
    """Run ``task`` on each item, several at once, and yield results as they come.

    A thread takes its next item when it is done with one: never are more than ``at_once`` begun
    and not ended. A task that raises gives a result that says so. Closing the iterator, or an
    interrupt of this thread, by a signal or by its event, asks all tasks to leave by a
    `KeyboardInterrupt`, and waits for that for a while.

    Args:
        task: What to run.
        items: What it is given, one each.
        at_once: Number of threads.
        ends_all: Whether an error of a task is one that ends the others, too; None for never.

    Yields:
        One result per item, in the order in which they end; only those that had ended by then
        after an error that ends all.

    Raises:
        ValueError: ``at_once`` is below 1.
    """
    if at_once < 1:
        raise ValueError(f"at_once={at_once} is below 1")
    stop, results = threading.Event(), queue.SimpleQueue[TaskResult[Item, Value] | _Left]()
    shared = _Shared(items)

    def work() -> None:
        left = _Left()
        try:
            with interrupted_by(stop):
                for item in shared:
                    if stop.is_set():
                        break
                    result = guarded(task, item)
                    if result.error is not None and ends_all is not None and ends_all(result.error):
                        stop.set()
                    results.put(result)
        except KeyboardInterrupt:
            left = _Left(interrupted=not stop.is_set())  # the task's own: not asked for here
        finally:
            results.put(left)

    names = (f"task-{number}" for number in range(at_once))
    threads = [threading.Thread(target=work, name=name, daemon=True) for name in names]
    try:
        for thread in threads:
            thread.start()
        running = at_once
        while running:
            result = _next_of(results)
            if isinstance(result, TaskResult):
                yield result
                continue
            if result.interrupted:
                raise KeyboardInterrupt
            running -= 1
    finally:
        stop.set()
        _await(threads)


def _next_of(results: queue.SimpleQueue[Value]) -> Value:
    """Wait for the next one, and for an interruption of this thread."""
    while interruption() is not None:
        check_interruption()
        try:
            return results.get(timeout=POLL_S)
        except queue.Empty:
            continue
    return results.get()


class _Left:
    """A thread has ended."""

    def __init__(self, *, interrupted: bool = False) -> None:
        self.interrupted = interrupted


class _Shared(Iterator[Item]):
    """An iterator that several threads may advance."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._turn = threading.Lock()

    def __next__(self) -> Item:
        with self._turn:
            return next(self._items)


def _await(threads: list[threading.Thread]) -> None:
    end = time.monotonic() + GRACE_S
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, end - time.monotonic()))
    late = sum(thread.is_alive() for thread in threads)
    if late:
        log.warning("%d tasks have not ended %g s after they were asked to", late, GRACE_S)
