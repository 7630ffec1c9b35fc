"""Run a frozen net over a batch of any length, without waste and within bounded memory.

On a CPU a batch is cut into small chunks, and each chunk runs on one core. Small, because then
the activations of the early layers stay in blocks that the memory allocator keeps (above 32 MiB
it returns them to the system after every layer). One core each, because threads that share a
layer wait for each other many hundred times a batch: as soon as a decoder wants one of the cores,
all of them stand still. Chunks of several videos share the cores; joining them would gain nothing.

On an accelerator batches have one fixed shape, and rows of several videos share them
(`extractors.joint`, which says what that promises).

A net that finds no room in memory is tried once more. On a CPU the same chunks run one after the
other, which changes no bit. On an accelerator the batch is halved, and so are all that follow in
this process: libraries choose their kernels by the shape, so the last bits may then be others than
those of a device with more room. A warning says so. If that fails, the video fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.device_queue import Answer, DeviceQueue, Inputs, Outputs
from extractors.interruption import check_interruption, result_of
from extractors.joint import DEVICE_ROWS, JointBatches
from extractors.out_of_memory import is_out_of_memory, no_room, release

Forward = Callable[[Any], tuple[Tensor, ...]]
Prepare = Callable[[Tensor], Inputs]

log = logging.getLogger(__name__)

# One thread asks the devices of a process: cuDNN's handles and plans belong to a thread, and each
# would make its own; torch keeps one set of cuDNN's settings for all of them.
_asking = ThreadPoolExecutor(1, thread_name_prefix="device")


class Runner:
    """Maps arrays through a net, chunk by chunk. Any number of threads may call it at once.

    Args:
        forward: From a (n, ...) tensor on ``device``, or what ``prepare`` made of it, to tensors
            with n rows each.
        device: Where ``forward`` expects its input.
        threads: Chunks that run at once on a CPU; None takes torch's number of threads.
        cpu_chunk: Rows per chunk on a CPU.
        device_chunk: Rows per batch on any other device, at most; `DEVICE_ROWS` where it is more.
        joint: Whether batches have one shape and are shared; None: on any device but a CPU.
        prepare: What the net wants instead of rows, of n rows each, made on the CPU. Work of the
            CPU belongs here: inside ``forward`` the nets of a device wait for each other.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        device: torch.device,
        threads: int | None,
        cpu_chunk: int,
        device_chunk: int,
        joint: bool | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._forward = forward
        self._prepare = prepare
        self._device = device
        self._chunk = cpu_chunk
        self._halved = False  # whether the device has no room for whole batches
        on_cpu = device.type == "cpu"
        self._pool = _single_core_threads(threads or torch.get_num_threads()) if on_cpu else None
        self._queue = None if on_cpu else DeviceQueue(device)
        self._joint: JointBatches[Answer] | None = None
        if (not on_cpu) if joint is None else joint:
            rows = min(device_chunk, DEVICE_ROWS)
            self._joint = JointBatches(self._launch, Answer.wait, rows=rows)

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """Run the net on (N, ...); each output is (N, ...) float32. N may be 0.

        Raises:
            OutOfMemoryFault: There is no room for it, also on a second try.
        """
        check_interruption()
        whole = np.require(batch, requirements=["C", "W"])
        if self._joint is not None:
            return self._joint(whole) if len(whole) else self._run(whole)
        chunks = [whole[low : low + self._chunk] for low in range(0, len(whole), self._chunk)]
        results = self.each(chunks or [whole])
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))

    def each(self, batches: Sequence[NDArray[Any]]) -> list[Outputs]:
        """Run the net on each array as it is, several at once on a CPU, and in that order."""
        whole = [np.require(batch, requirements=["C", "W"]) for batch in batches]
        pool = self._pool
        if pool is None:
            return [self._run(batch) for batch in whole]
        try:
            return self._at_once(pool, whole)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no room in memory for %d chunks at once: one by one", len(whole))
        release(self._device)
        try:
            return [answer for batch in whole for answer in self._at_once(pool, [batch])]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise no_room(self._device, error) from error

    def _at_once(self, pool: ThreadPoolExecutor, batches: Sequence[NDArray[Any]]) -> list[Outputs]:
        waiting: list[Future[Outputs]] = [pool.submit(self._run, batch) for batch in batches]
        try:
            return [result_of(future) for future in waiting]
        finally:
            for future in waiting:  # nobody wants the rest after an error or an interrupt
                future.cancel()

    def _run(self, batch: NDArray[Any]) -> Outputs:
        return self._launch(batch).wait()

    def _launch(self, batch: NDArray[Any]) -> Answer:
        """Start the net; on an accelerator the answer may still be in the making."""
        if self._queue is None:  # `each` tries again
            with torch.inference_mode():
                outputs = self._forward(self._prepared(batch))
                return Answer(tuple(output.float() for output in outputs))
        if not self._halved:
            try:
                return self._ask(self._queue, [batch])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("%s has no room for %d rows: halved", self._device, len(batch))
            release(self._device)
            self._halved = True
            if self._joint is not None:
                self._joint.forget()
        try:
            return self._ask(self._queue, np.array_split(batch, 1 if len(batch) < 2 else 2))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise no_room(self._device, error) from error

    def _ask(self, queue: DeviceQueue, parts: Sequence[NDArray[Any]]) -> Answer:
        """Queue a batch and its way back, in so many parts."""
        ready = [queue.pin(self._prepared(part)) for part in parts]
        return _asking.submit(self._queue_up, queue, ready).result()

    def _queue_up(self, queue: DeviceQueue, ready: Sequence[Inputs]) -> Answer:
        # Kernels are chosen when they are launched. TF32 would make features depend on the device
        # that computed them; the switches that are not named here would be turned off.
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            answers = [self._forward(queue.send(part)) for part in ready]
            whole = tuple(
                torch.cat(outputs) if len(outputs) > 1 else outputs[0]
                for outputs in zip(*answers, strict=True)
            )
            return queue.answer(whole)  # before another net's batch is queued behind this one

    def _prepared(self, batch: NDArray[Any]) -> Inputs:
        rows = torch.from_numpy(batch)
        if self._prepare is None:
            return rows
        with torch.inference_mode():
            return self._prepare(rows)


def _single_core_threads(count: int) -> ThreadPoolExecutor:
    """A pool of ``count`` threads in each of which torch uses one core.

    Torch keeps one number of threads for the process, and every thread copies it when it first
    asks. So each thread of the pool sets the number and asks, and then the process gets its own
    number back.
    """
    before = torch.get_num_threads()
    all_started = Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()
        all_started.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="encoder")
    for waiting in [pool.submit(start) for _ in range(count)]:
        waiting.result()
    torch.set_num_threads(before)
    return pool
