"""Chunks, order and threads of the runner."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.runner import Runner

CPU = torch.device("cpu")


def runner(forward: object, *, threads: int | None = 2, chunk: int = 4) -> Runner:
    return Runner(
        forward,  # type: ignore[arg-type]
        device=CPU,
        threads=threads,
        cpu_chunk=chunk,
        device_chunk=64,
    )


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 23])
def test_rows_come_back_in_order(rows: int) -> None:
    batch = np.arange(rows, dtype=np.float32)[:, None]
    double, triple = runner(lambda x: (2 * x, 3 * x))(batch)
    np.testing.assert_array_equal(double, 2 * batch)
    np.testing.assert_array_equal(triple, 3 * batch)


def test_no_chunk_is_larger_than_asked() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(x))
        return (x,)

    runner(forward, chunk=3)(np.zeros((8, 2), dtype=np.float32))
    assert sorted(sizes) == [2, 3, 3]


def test_each_chunk_runs_on_one_core_and_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cores: set[int] = set()

        def forward(x: Tensor) -> tuple[Tensor, ...]:
            cores.add(torch.get_num_threads())
            return (x,)

        run = runner(forward, threads=3, chunk=1)
        run(np.zeros((12, 1), dtype=np.float32))
        assert cores == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_chunks_run_at_once() -> None:
    both = threading.Barrier(2, timeout=30)

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        both.wait()  # passes only when two chunks are under way
        return (x,)

    runner(forward, threads=2, chunk=1)(np.zeros((4, 1), dtype=np.float32))


def test_an_error_in_a_chunk_reaches_the_caller() -> None:
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        raise ValueError("broken net")

    with pytest.raises(ValueError, match="broken net"):
        runner(forward)(np.zeros((2, 1), dtype=np.float32))
