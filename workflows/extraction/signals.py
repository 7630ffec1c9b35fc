"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Treat a polite kill (a cluster's scheduler, a shutdown) like Ctrl-C: end in good order.

    So does the end of the terminal, or of the connection to it, where no nohup is before it.

    Yields:
        Set once either came. An exception raised by a signal can get lost where it lands in a
        library's callback; whoever looks at the event ends all the same.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def interrupt(number: int, frame: Any) -> None:
        asked.set()
        raise KeyboardInterrupt

    defaults = (signal.default_int_handler, signal.SIG_DFL)  # others have plans of their own
    before = {
        number: handler for number in SIGNALS if (handler := signal.getsignal(number)) in defaults
    }
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
