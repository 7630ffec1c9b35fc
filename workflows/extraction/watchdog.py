"""Ends a process that makes no progress: a net or driver that hangs cannot be interrupted.

Decoders have watchdogs of their own, as they run in processes that can be killed
(`extractors.media.process`). What computes in this process can hang in native code, where no
exception reaches it and Dask hears its heartbeat as before. The process is then as good as dead,
and is treated so: it leaves the ledger as a crash would, which costs one video and not the job.

Where several videos are in flight they take turns on the nets and on the cores, and waiting for
one's turn is no hang. So the time that counts against a video is its share: with n in flight, a
second counts as 1/n. No video is given less time than it would have alone; that one hangs, or that
the nets hang for all, is found after n times the patience at the latest.
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


_guard = threading.Lock()
_active: set[Watchdog] = set()  # of this process


class Watchdog:
    """Ends the process when `pat` is not called for a while. A context manager.

    Args:
        what: What is being done, for the last words.
        patience: Seconds between two calls that are still no hang, of its share of the time where
            others are watched in this process.
    """

    def __init__(self, what: str, *, patience: float = PATIENCE_S) -> None:
        if patience <= 0:
            raise ValueError(f"patience={patience} is not positive")
        self._what = what
        self._patience = patience
        self._last = time.monotonic()
        self._spent = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.pat()
        with _guard:
            _active.add(self)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _guard:
            _active.discard(self)
        self._over.set()
        self._thread.join()

    def pat(self) -> None:
        """There was progress."""
        with _guard:
            self._last, self._spent = time.monotonic(), 0.0

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(min(1.0, self._patience / 4)):
            now = time.monotonic()
            with _guard:
                self._spent += min(now - looked, now - self._last) / max(1, len(_active))
                spent = self._spent
            looked = now
            if spent > self._patience:
                log.critical(
                    "%s: no progress for %g s; this process ends, run the same command again",
                    self._what,
                    self._patience,
                )
                os._exit(HUNG)  # a hanging thread would keep a polite exit waiting
