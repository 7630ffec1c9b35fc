"""A moving stretch of a long row of samples: append behind, drop in front, memory bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SlidingBuffer:
    """The samples ``start`` .. ``stop`` - 1 of a row of which the front has been dropped.

    Space is used again: the samples move to the front when the end of the space is reached, and
    the space grows only when the stretch itself is longer than ever before. Amortised, a sample is
    copied a constant number of times.

    Args:
        shape: Shape of one sample.
        dtype: Type of the values.
        first: Number of the first sample.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, *, first: int = 0) -> None:
        self.shape = shape
        self._space: NDArray[Any] = np.empty((0, *shape), dtype)
        self._low = 0  # place of sample `start` in the space
        self._start = first
        self._stop = first

    @property
    def start(self) -> int:
        """Number of the first sample that is still there."""
        return self._start

    @property
    def stop(self) -> int:
        """Number of the sample that would come next."""
        return self._stop

    def __len__(self) -> int:
        return self._stop - self._start

    def append(self, rows: NDArray[Any]) -> None:
        """Add (n, *shape) samples behind the last one."""
        self._make_room(len(rows))
        high = self._low + len(self)
        self._space[high : high + len(rows)] = rows
        self._stop += len(rows)

    def rows(self, first: int, stop: int) -> NDArray[Any]:
        """Samples ``first`` .. ``stop`` - 1, as far as they are there; valid until the next change.

        Raises:
            IndexError: ``first`` has been dropped.
        """
        if first < self._start:
            raise IndexError(f"sample {first} was dropped; the first one is {self._start}")
        low = min(first, self._stop) - self._start + self._low
        high = max(low, min(stop, self._stop) - self._start + self._low)
        return self._space[low:high]

    def drop(self, before: int) -> None:
        """Forget all samples with a number below ``before``, as far as they are there."""
        count = min(max(0, before - self._start), len(self))
        self._low += count
        self._start += count

    def _make_room(self, count: int) -> None:
        held = len(self)
        if self._low + held + count <= len(self._space):
            return
        stretch = self._space[self._low : self._low + held]
        if held + count > len(self._space) // 2:
            space = np.empty((2 * (held + count), *self.shape), self._space.dtype)
            space[:held] = stretch
            self._space = space
        else:
            self._space[:held] = stretch
        self._low = 0
