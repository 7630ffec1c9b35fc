"""Join small files while a run goes on, so that no folder holds more than some thousands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress

from extractors.storage.store import FeatureStore
from pipeline.core.errors import StoreError
from workflows.extraction.groups import Results
from workflows.extraction.task import ExtractJob

PACK_EVERY = 4096  # videos of this run after which small files are joined

Run = Callable[[Sequence[ExtractJob]], Results]


@contextmanager
def packing_along(store: FeatureStore) -> Iterator[Callable[[Run], Run]]:
    """Pack a store each time that a run has finished some thousand videos.

    It happens in a thread of this process: workers get their next videos meanwhile. When the block
    ends in good order, packing is waited for; otherwise it stops within a shard, and the next run
    goes on with what is left.

    Args:
        store: The store.

    Yields:
        What makes a run one that is packed along.
    """
    packer = _Packer(store)
    try:
        yield packer.watch
    except BaseException:
        packer.end(at_once=True)
        raise
    packer.end(at_once=False)


class _Packer:
    """Counts finished videos and packs; its methods are called by one thread."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._finished = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def watch(self, run: Run) -> Run:
        return lambda jobs: self._watched(run(jobs))  # called now: it may refuse the scheduler

    def end(self, *, at_once: bool) -> None:
        if at_once:
            self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watched(self, results: Results) -> Results:
        with closing(results):
            for result in results:
                if result.value is not None and result.value.outcome in ("done", "partial"):
                    self._finished += 1
                if self._finished >= PACK_EVERY and not self._is_packing():
                    self._finished = 0
                    # Where a second interrupt ends this process, it must not wait for a shard.
                    self._thread = threading.Thread(target=self._pack, name="packing", daemon=True)
                    self._thread.start()
                yield result

    def _is_packing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _pack(self) -> None:
        """Pack; a fault of the disk that stays is met, and told, at the end of the run."""
        with suppress(OSError, StoreError):
            # Another job on the store may have done it just now.
            self._store.pack(min_videos=PACK_EVERY // 4, go_on=lambda: not self._stop.is_set())
