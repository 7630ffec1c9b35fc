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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.interruption import check_interruption, result_of
from extractors.joint import DEVICE_ROWS, JointBatches
from extractors.out_of_memory import is_out_of_memory, no_room, release

Inputs = Tensor | Mapping[str, Tensor]
Forward = Callable[[Any], tuple[Tensor, ...]]
Prepare = Callable[[Tensor], Inputs]
Outputs = tuple[NDArray[np.float32], ...]

log = logging.getLogger(__name__)

# Torch keeps one set of cuDNN's settings for the process: threads change them one at a time.
_settings = Lock()


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
        self._joint: JointBatches[tuple[Tensor, ...]] | None = None
        if (not on_cpu) if joint is None else joint:
            rows = min(device_chunk, DEVICE_ROWS)
            self._joint = JointBatches(self._launch, self._collect, rows=rows)

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
        return self._collect(self._launch(batch))

    def _launch(self, batch: NDArray[Any]) -> tuple[Tensor, ...]:
        """Start the net; on an accelerator the answer may still be in the making."""
        if self._device.type == "cpu":  # `each` tries again
            return self._start(batch)
        if not self._halved:
            try:
                return self._start(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("%s has no room for %d rows: halved", self._device, len(batch))
            release(self._device)
            self._halved = True
            if self._joint is not None:
                self._joint.forget()
        try:
            parts = 1 if len(batch) < 2 else 2
            halves = [self._start(half) for half in np.array_split(batch, parts)]
            return tuple(torch.cat(outputs) for outputs in zip(*halves, strict=True))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise no_room(self._device, error) from error

    def _start(self, batch: NDArray[Any]) -> tuple[Tensor, ...]:
        inputs = self._prepared(torch.from_numpy(batch))
        if self._device.type == "cpu":
            with torch.inference_mode():
                return tuple(output.float() for output in self._forward(inputs))
        if self._device.type == "cuda":  # the copy then waits in the device's queue, not here
            inputs = _each(inputs, Tensor.pin_memory)
        # Kernels are chosen when they are launched. TF32 would make features depend on the device
        # that computed them; the switches that are not named here would be turned off.
        with (
            _settings,
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            there = _each(inputs, lambda value: value.to(self._device, non_blocking=True))
            return tuple(output.float() for output in self._forward(there))

    def _prepared(self, rows: Tensor) -> Inputs:
        if self._prepare is None:
            return rows
        with torch.inference_mode():
            return self._prepare(rows)

    @staticmethod
    def _collect(outputs: tuple[Tensor, ...]) -> Outputs:
        return tuple(output.cpu().numpy() for output in outputs)


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same change made to all that a net is given."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {name: change(value) for name, value in inputs.items()}


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
