"""Ends a process that makes no progress: a net or driver that hangs cannot be interrupted.

Decoders have watchdogs of their own, as they run in processes that can be killed
(`extractors.media.process`). What computes in this process can hang in native code, where no
exception reaches it and Dask hears its heartbeat as before. The process is then as good as dead,
and is treated so: it leaves the ledger as a crash would, which costs one video and not the job.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from types import TracebackType

PATIENCE_S = (
    3600.0  # flow on a busy core takes minutes for one chunk of steps; a hang takes for ever
)
HUNG = 3  # exit code: the environment, as a driver that hangs

log = logging.getLogger(__name__)


class Watchdog:
    """Ends the process when `pat` is not called for a while. A context manager.

    Args:
        what: What is being done, for the last words.
        patience: Seconds between two calls that are still no hang.
    """

    def __init__(self, what: str, *, patience: float = PATIENCE_S) -> None:
        if patience <= 0:
            raise ValueError(f"patience={patience} is not positive")
        self._what = what
        self._patience = patience
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def pat(self) -> None:
        """There was progress."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._patience / 4)):
            if time.monotonic() - self._last > self._patience:
                log.critical(
                    "%s: no progress for %g s; this process ends, run the same command again",
                    self._what,
                    self._patience,
                )
                os._exit(HUNG)  # a hanging thread would keep a polite exit waiting
