"""How one task of many ended: its value, or why there is none."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


_wanted: ContextVar[Callable[[], bool]] = ContextVar("wanted", default=lambda: True)


@contextmanager
def wanted_while(ask: Callable[[], bool]) -> Iterator[None]:
    """Let a task of this thread know whether anybody still waits for its result.

    Args:
        ask: Says so; called in any thread.
    """
    token = _wanted.set(ask)
    try:
        yield
    finally:
        _wanted.reset(token)


def wanted() -> Callable[[], bool]:
    """What says whether anybody waits for the task of this thread; a task of many parts asks it."""
    return _wanted.get()


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[Item, Value]):
    """How one task ended.

    Attributes:
        item: What it was given.
        value: What it returned; None where it did not.
        error: What it raised.
        deaths: Workers that died while they had the item, where it was given up for that; else 0.
        seconds: How long it took.
    """

    item: Item
    value: Value | None = None
    error: BaseException | None = None
    deaths: int = 0
    seconds: float = 0.0

    @property
    def died(self) -> bool:
        """Whether it was given up because its workers died under it."""
        return self.deaths > 0


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
