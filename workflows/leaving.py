"""Tasks of a worker that is told to close: they get time to end, then they are asked to leave."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FINISH_S = 20.0  # for tasks of a worker at the end of its lifetime: Dask gives it 30 s
LEAVE_S = 6.0  # for tasks that were asked to leave: a nanny that was told to end kills after 8 s


class Leaving:
    """The tasks in flight in one worker; what `workflows.schedule` adds to it as a plugin.

    Attributes:
        asked: Set when the tasks are to leave.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._count = 0
        self._turn = threading.Lock()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a task for as long as the block lasts."""
        with self._turn:
            self._count += 1
        try:
            yield
        finally:
            with self._turn:
                self._count -= 1

    def setup(self, worker: Any) -> None:
        """What Dask calls when this is added.

        Ctrl-C in the terminal of a nanny reaches its worker, too. That would ask the nanny to
        close, which waits for the worker already: both stand still until the nanny kills.
        """
        if worker.nanny and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, _leave_it_to_the_nanny)

    async def teardown(self, worker: Any) -> None:
        """What Dask calls when the worker closes."""
        if worker.lifetime and _age() > worker.lifetime:
            await self._ended(FINISH_S)
        self.asked.set()
        await self._ended(LEAVE_S)

    async def _ended(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._count and time.monotonic() < end:
            await asyncio.sleep(0.05)


def _leave_it_to_the_nanny(number: int, frame: Any) -> None:
    """Unlike a signal that is ignored, one with a handler is not ignored by child processes."""


def _age() -> float:
    """Seconds since this process was started."""
    import psutil  # type: ignore[import-untyped]  # Dask brings it

    return time.time() - float(psutil.Process().create_time())
