"""Ending work in threads: a signal reaches the main thread alone, so the others have to ask.

Whoever runs work in a thread gives it an event; code below that waits for long asks now and then
whether it is set, and leaves as it would on Ctrl-C: by `KeyboardInterrupt`, which closes what is
open on its way out. In a thread without an event nothing is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

POLL_S = 0.2  # longest time until a wait notices

Value = TypeVar("Value")

_event: ContextVar[threading.Event | None] = ContextVar("interruption", default=None)


@contextmanager
def interrupted_by(event: threading.Event) -> Iterator[None]:
    """Let an event end what this thread does inside a block.

    Args:
        event: Once it is set, the block is left at the next place that asks.
    """
    token = _event.set(event)
    try:
        yield
    finally:
        _event.reset(token)


def interruption() -> threading.Event | None:
    """What ends the work of this thread; None where nothing does."""
    return _event.get()


def check_interruption() -> None:
    """Leave if this thread was asked to.

    Raises:
        KeyboardInterrupt: It was.
    """
    event = _event.get()
    if event is not None and event.is_set():
        raise KeyboardInterrupt


def result_of(future: Future[Value]) -> Value:
    """Wait for the answer of another thread, and for an interruption.

    Raises:
        KeyboardInterrupt: This thread was asked to leave.
    """
    if _event.get() is None:
        return future.result()
    while True:
        check_interruption()
        try:
            return future.result(timeout=POLL_S)
        except TimeoutError:
            if future.done():  # it was the work that timed out
                raise
