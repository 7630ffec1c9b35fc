"""Which runs are at work on one store: each holds a lock, which ends with its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from extractors.storage.store import FeatureStore

RUNS = 64  # that are told from each other; one more is not seen by the others


@contextmanager
def present(store: FeatureStore) -> Iterator[Callable[[], bool]]:
    """Be seen as a run on a store.

    A claim says that *some* process has a video. Only the process that runs a job answers for its
    videos: a worker of a cluster may have been given up by a job, or its job may be dead.

    Args:
        store: The store.

    Yields:
        What says whether another run is at work on it just now; always False where locks do not
        keep other processes out.
    """
    locks = store.locks
    with ExitStack() as stack:
        mine = None
        for number in range(RUNS):
            if stack.enter_context(locks.hold(_name(number), wait=False)):
                mine = number
                break

        def others() -> bool:
            return any(locks.is_held(_name(number)) for number in range(RUNS) if number != mine)

        yield others


def _name(number: int) -> str:
    return f"run {number}"
