"""Whether a video has its process for itself, so that the process's death is its own.

A worker of Dask with several threads runs as many tasks at once. A video that is tried once more
after a process died waits there until the others have ended, and the next ones wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from extractors.interruption import POLL_S, check_interruption

_turn = threading.Condition()
_inside = 0  # videos in flight in this process
_alone = 0  # of these, such as must be alone, and those that wait for it


@contextmanager
def company(*, alone: bool) -> Iterator[None]:
    """Hold a place in this process, beside others or alone.

    Args:
        alone: Whether no other may be in flight meanwhile.

    Raises:
        KeyboardInterrupt: This thread was asked to leave while it waited.
    """
    global _inside, _alone
    with _turn:
        if not alone:
            _wait(lambda: _alone == 0)
        _alone += alone
        try:
            if alone:
                _wait(lambda: _inside == 0)
            _inside += 1
        except KeyboardInterrupt:
            _alone -= alone
            raise
    try:
        yield
    finally:
        with _turn:
            _inside -= 1
            _alone -= alone
            _turn.notify_all()


def _wait(free: Callable[[], bool]) -> None:
    while not free():
        check_interruption()
        _turn.wait(POLL_S)
