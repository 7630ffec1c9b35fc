"""Run a frozen net over a batch of any length, without waste and within bounded memory.

On a CPU a batch is cut into small chunks, and each chunk runs on one core. Small, because then
the activations of the early layers stay in blocks that the memory allocator keeps (above 32 MiB
it returns them to the system after every layer). One core each, because threads that share a
layer wait for each other many hundred times a batch: as soon as a decoder wants one of the cores,
all of them stand still. On an accelerator a chunk is as large as memory allows, and runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Forward = Callable[[Tensor], tuple[Tensor, ...]]


class Runner:
    """Maps arrays through a net, chunk by chunk.

    Args:
        forward: From a (n, ...) tensor on ``device`` to tensors with n rows each.
        device: Where ``forward`` expects its input.
        threads: Chunks that run at once on a CPU; None takes torch's number of threads.
        cpu_chunk: Rows per chunk on a CPU.
        device_chunk: Rows per chunk on any other device.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        device: torch.device,
        threads: int | None,
        cpu_chunk: int,
        device_chunk: int,
    ) -> None:
        self._forward = forward
        self._device = device
        on_cpu = device.type == "cpu"
        self._chunk = cpu_chunk if on_cpu else device_chunk
        self._pool = _single_core_threads(threads or torch.get_num_threads()) if on_cpu else None

    def __call__(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        """Run the net on (N, ...); each output is (N, ...) float32. N may be 0."""
        whole = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        chunks = whole.split(self._chunk)
        results = list(self._pool.map(self._run, chunks) if self._pool else map(self._run, chunks))
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))

    def each(self, batches: Sequence[NDArray[Any]]) -> list[tuple[NDArray[np.float32], ...]]:
        """Run the net on each array as it is, several at once on a CPU, and in that order."""
        whole = [torch.from_numpy(np.require(batch, requirements=["C", "W"])) for batch in batches]
        return list(self._pool.map(self._run, whole) if self._pool else map(self._run, whole))

    def _run(self, chunk: Tensor) -> tuple[NDArray[np.float32], ...]:
        # TF32 would make features depend on the device that computed them.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            return tuple(
                output.float().cpu().numpy() for output in self._forward(chunk.to(self._device))
            )


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
