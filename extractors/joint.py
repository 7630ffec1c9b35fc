"""Rows of several videos in one batch of an accelerator.

Each video runs in a thread of its own and asks the net for its rows. Whichever thread finds the
device free serves all: it takes what waits, oldest first, joins requests of one kind up to a full
batch, has the net run, hands each its rows, and passes the service on once its own are there. No
thread waits for requests, so a single video goes the same way at no cost.

What is promised (the mode is called ``exact``, and there is no other): a row's answer does not
depend on which rows stand beside it, so that equal files give equal bits alone and in company.

* Every batch has one number of rows, whoever filled it; free places repeat the first row. Libraries
  choose their kernels, and with them the order of their sums, by the shape.
* That a kernel of one shape treats every place of a batch alike is tried, not assumed: the first
  batch of each kind that holds rows of several requests is also run in reverse order, and unless
  every row's answer is the same bit for bit, requests of that kind are never joined, and each is
  padded by itself. This finds kernels that split sums by place; it is a trial, no proof.

What is not promised: equal bits from other devices, drivers or versions of torch, or from kernels
that answer the same question differently from run to run.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

DEVICE_ROWS = 32  # what a lane hands over at once: a single video fills its batches, too
IN_FLIGHT = 2  # batches: one computes, the next one is on the device already

Launched = TypeVar("Launched")
Answer = tuple[NDArray[np.float32], ...]
Kind = tuple[tuple[int, ...], str]

log = logging.getLogger(__name__)


class JointBatches(Generic[Launched]):
    """Maps arrays of any length through a net, in batches that several threads share.

    Args:
        launch: Starts the net on a (``rows``, ...) array; it need not wait for the answer.
        collect: Waits for the answer: arrays of ``rows`` rows each.
        rows: Rows of every batch.
    """

    def __init__(
        self,
        launch: Callable[[NDArray[Any]], Launched],
        collect: Callable[[Launched], Answer],
        *,
        rows: int,
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows={rows} is below 1")
        self.rows = rows
        self._launch = launch
        self._collect = collect
        self._state = threading.Condition()
        self._waiting: deque[_Request] = deque()  # with rows that are not on the device yet
        self._flights: deque[_Flight[Launched]] = deque()
        self._served = False  # whether a thread serves the device
        self._joinable: dict[Kind, bool] = {}  # what the trial of each kind said

    def __call__(self, batch: NDArray[Any]) -> Answer:
        """Answers for (N, ...), N of 1 or more; each output is (N, ...).

        Raises:
            Exception: What the net raised on these rows alone; that of others stays with them.
        """
        request = _Request(batch)
        with self._state:
            self._waiting.append(request)
            self._state.wait_for(lambda: request.over or not self._served)
            serve = not request.over
            self._served = self._served or serve
        if serve:
            try:
                while not request.over:
                    self._fill_device()
                    self._take_answer()
            finally:
                self._stand_down(request)
        return request.answer()

    def forget(self) -> None:
        """Try each kind of rows anew: from now on, the net runs in another shape.

        For ``launch``, which no two threads call at once.
        """
        self._joinable.clear()

    def _stand_down(self, request: _Request) -> None:
        with self._state:
            if request in self._waiting:  # left by an interrupt
                self._waiting.remove(request)
            self._served = False
            self._state.notify_all()

    def _fill_device(self) -> None:
        """Start full batches while there is room; one that is not full only on an idle device."""
        while len(self._flights) < IN_FLIGHT:
            with self._state:
                shares = self._next_shares()
            if not shares:
                return
            self._start(shares)

    def _next_shares(self) -> list[_Share]:
        """Rows of the next batch, taken from what waits; [] where waiting is better."""
        if not self._waiting:
            return []
        kind = self._waiting[0].kind
        same = [request for request in self._waiting if request.kind == kind]
        if not self._joinable.get(kind, True):
            same = same[:1]
        if self._flights and sum(request.untaken for request in same) < self.rows:
            return []
        shares: list[_Share] = []
        free = self.rows
        for request in same:
            count = min(free, request.untaken)
            shares.append(_Share(request, request.taken, self.rows - free, count))
            request.taken += count
            free -= count
            if not request.untaken:
                self._waiting.remove(request)
            if not free:
                break
        return shares

    def _start(self, shares: list[_Share]) -> None:
        """Put a batch on the device; what fails in company is tried alone."""
        joined = len({id(share.request) for share in shares}) > 1
        kind = shares[0].request.kind
        try:
            if joined and kind not in self._joinable:
                self._try_kind(kind, shares)
                return
            self._flights.append(_Flight(self._launch(self._assemble(shares)), shares))
        except Exception as error:  # whatever it is, it belongs to the thread that asked
            if joined and kind not in self._joinable:
                log.warning(
                    "rows of shape %s are not joined: the trial failed (%s)", kind[0], error
                )
                self._joinable[kind] = False
                self._take_back(shares)
            else:
                self._after_error(shares, error)
        except BaseException as error:  # an interrupt of the thread that serves
            self._fail(shares, error)
            raise

    def _try_kind(self, kind: Kind, shares: list[_Share]) -> None:
        """Serve the first joint batch of a kind if places are alike, which this learns."""
        batch = self._assemble(shares)
        answer = self._collect(self._launch(batch))
        other = self._collect(self._launch(np.ascontiguousarray(batch[::-1])))
        alike = all(
            one.tobytes() == np.ascontiguousarray(two[::-1]).tobytes()
            for one, two in zip(answer, other, strict=True)
        )
        self._joinable[kind] = alike
        if alike:
            self._deliver(shares, answer)
            return
        log.warning(
            "rows of shape %s change with their place in a batch: videos are not joined in one",
            kind[0],
        )
        self._take_back(shares)

    def _take_back(self, shares: Sequence[_Share]) -> None:
        """Let rows wait again: alone, each stands at the place that it has in company of none."""
        with self._state:
            for share in reversed(shares):
                share.request.taken = share.first
                if share.request not in self._waiting:
                    self._waiting.appendleft(share.request)

    def _alone(self, shares: list[_Share]) -> None:
        """Serve each share in a batch of its own."""
        for share in shares:
            single = [_Share(share.request, share.first, 0, share.count)]
            try:
                self._deliver(single, self._collect(self._launch(self._assemble(single))))
            except Exception as error:  # of any kind: that thread raises it, the others go on
                self._fail(single, error)

    def _after_error(self, shares: list[_Share], error: Exception) -> None:
        if len({id(share.request) for share in shares}) > 1:
            self._alone(shares)
        else:
            self._fail(shares, error)

    def _take_answer(self) -> None:
        """Wait for the oldest batch on the device."""
        if not self._flights:
            return
        flight = self._flights[0]
        try:
            answer = self._collect(flight.launched)
        except Exception as error:  # devices report a launch's failure here, by any type
            self._flights.popleft()
            self._after_error(flight.shares, error)
        else:
            self._flights.popleft()
            self._deliver(flight.shares, answer)

    def _assemble(self, shares: Sequence[_Share]) -> NDArray[Any]:
        """(rows, ...) with free places filled by the first row."""
        first = shares[0]
        if first.count == self.rows:
            return first.request.batch[first.first : first.first + first.count]
        shape, dtype = first.request.batch.shape[1:], first.request.batch.dtype
        batch = np.empty((self.rows, *shape), dtype)
        used = 0
        for share in shares:
            rows = share.request.batch[share.first : share.first + share.count]
            batch[share.place : share.place + share.count] = rows
            used += share.count
        batch[used:] = batch[0]
        return batch

    def _deliver(self, shares: Sequence[_Share], answer: Answer) -> None:
        with self._state:
            for share in shares:
                share.request.take(share, answer)
            self._state.notify_all()

    def _fail(self, shares: Sequence[_Share], error: BaseException) -> None:
        with self._state:
            for share in shares:
                share.request.error = error
                if share.request in self._waiting:  # the rest of its rows is not wanted any more
                    self._waiting.remove(share.request)
            self._state.notify_all()


@dataclass(slots=True, eq=False)
class _Request:
    """Rows that one thread waits for."""

    batch: NDArray[Any]
    taken: int = 0  # rows that have been given to the device
    answered: int = 0
    outputs: Answer = ()
    error: BaseException | None = field(default=None, repr=False)

    @property
    def kind(self) -> Kind:
        return self.batch.shape[1:], self.batch.dtype.str

    @property
    def untaken(self) -> int:
        return len(self.batch) - self.taken

    @property
    def over(self) -> bool:
        return self.error is not None or self.answered == len(self.batch)

    def take(self, share: _Share, answer: Answer) -> None:
        """Keep the rows of a batch's answer that are this request's."""
        if not self.outputs:
            self.outputs = tuple(
                np.empty((len(self.batch), *part.shape[1:]), part.dtype) for part in answer
            )
        for output, part in zip(self.outputs, answer, strict=True):
            output[share.first : share.first + share.count] = part[
                share.place : share.place + share.count
            ]
        self.answered += share.count

    def answer(self) -> Answer:
        if self.error is not None:
            raise self.error
        return self.outputs


@dataclass(frozen=True, slots=True)
class _Share:
    """Rows of a request in a batch."""

    request: _Request
    first: int  # row of the request
    place: int  # row of the batch
    count: int


@dataclass(frozen=True, slots=True)
class _Flight(Generic[Launched]):
    """A batch on the device."""

    launched: Launched
    shares: list[_Share]
