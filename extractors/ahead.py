"""Pictures made ready for a net ahead of it: the next stretch is there when the last is answered.

A reader decodes ahead by a few blocks of whole frames, which of large pictures are few. Frames that
a net has made ready are small, and a thread of their own makes and holds those of some seconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from extractors.interruption import POLL_S, check_interruption, interrupted_by, interruption
from extractors.media.blocks import FrameBlock, OpenPicture

AHEAD_BYTES = 24 << 20  # 10 s of I3D's pictures on the default grid

Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


class PreparedAhead:
    """The blocks of a reader, prepared in a thread. A context manager to be iterated once.

    Args:
        reader: Open; from here on, only this thread iterates it.
        prepare: From the frames of a block, (n, H, W, 3), to what is kept of them, (n, ...).
        most_bytes: That wait at once, unless a single block has more.
    """

    def __init__(
        self, reader: OpenPicture, prepare: Prepare, *, most_bytes: int = AHEAD_BYTES
    ) -> None:
        self._reader = reader
        self._prepare = prepare
        self._most = most_bytes
        self._waiting: deque[FrameBlock | BaseException | None] = deque()  # None: the end
        self._bytes = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True)

    def __enter__(self) -> PreparedAhead:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[FrameBlock]:
        """Blocks in their order.

        Raises:
            Exception: What the reader or ``prepare`` raised, behind the blocks before it.
        """
        while (item := self._take()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _take(self) -> FrameBlock | BaseException | None:
        with self._changed:
            while not self._waiting:
                check_interruption()
                self._changed.wait(None if interruption() is None else POLL_S)
            item = self._waiting.popleft()
            self._bytes -= _bytes(item)
            self._changed.notify_all()
            return item

    def _put(self, item: FrameBlock | BaseException | None) -> None:
        """Wait for room, unless nobody wants it any more."""
        size = _bytes(item)
        with self._changed:
            self._changed.wait_for(
                lambda: self._stop.is_set() or not self._waiting or self._bytes + size <= self._most
            )
            self._waiting.append(item)
            self._bytes += size
            self._changed.notify_all()

    def _produce(self) -> None:
        """Thread: read and prepare; an exception is raised where blocks are taken."""
        try:
            with interrupted_by(self._stop), contextlib.closing(self._blocks()) as blocks:
                for block in blocks:
                    # What is cut out of a frame would keep all of it in memory.
                    frames = np.ascontiguousarray(self._prepare(block.frames))
                    self._put(FrameBlock(block.first, frames))
                    check_interruption()
        except BaseException as error:  # of any kind: it belongs to the thread that takes
            self._put(error)
        else:
            self._put(None)

    def _blocks(self) -> Generator[FrameBlock, None, None]:
        """What can be closed in this thread: an error that waits to be taken would keep it open."""
        yield from self._reader


def _bytes(item: FrameBlock | BaseException | None) -> int:
    return item.frames.nbytes if isinstance(item, FrameBlock) else 0
