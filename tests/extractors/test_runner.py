"""Chunks, order and threads of the runner."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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


def test_nets_on_a_device_prepare_their_inputs_at_once() -> None:
    both = threading.Barrier(2, timeout=30)

    def prepare(rows: Tensor) -> dict[str, Tensor]:
        both.wait()  # passes only when the other net is not kept waiting
        return {"double": 2 * rows}

    def forward(inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        assert inputs["double"].device.type == "meta"  # a device without a chip behind it
        return (torch.ones(len(inputs["double"]), 1),)

    def run() -> int:
        net = Runner(
            forward,
            device=torch.device("meta"),
            threads=1,
            cpu_chunk=4,
            device_chunk=2,
            prepare=prepare,
        )
        return len(net(np.zeros((2, 3), np.float32))[0])

    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(run) for _ in range(2)]] == [2, 2]


def test_what_is_prepared_on_a_cpu_is_what_the_net_is_given() -> None:
    run = Runner(
        lambda inputs: (inputs["double"] + inputs["more"],),
        device=CPU,
        threads=2,
        cpu_chunk=2,
        device_chunk=64,
        prepare=lambda rows: {"double": 2 * rows, "more": torch.ones(len(rows), 1)},
    )
    batch = np.arange(5, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(run(batch)[0], 2 * batch + 1)
