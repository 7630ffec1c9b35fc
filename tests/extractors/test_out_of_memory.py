"""Nets that find no room in memory are tried once more, and then fail in words."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.out_of_memory import is_out_of_memory
from extractors.runner import Runner
from pipeline.core.errors import OutOfMemoryFault

CPU, DEVICE = torch.device("cpu"), torch.device("meta")  # the latter without a chip behind it
NO_ROOM = (
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
)


class Crowded:
    """A net on a device that has room for so many rows; it doubles what it is given.

    Args:
        room: Rows.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []
        self._prepared: deque[Tensor] = deque()

    def prepare(self, rows: Tensor) -> Tensor:
        self._prepared.append(rows)
        return rows

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        assert rows.device == DEVICE
        self.asked.append(len(rows))
        values = self._prepared.popleft()
        if len(rows) > self.room:
            self._prepared.clear()  # those of the other half
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return 2 * values, 3 * values

    def runner(self, *, joint: bool | None = None) -> Runner:
        return Runner(
            self.forward,
            device=DEVICE,
            threads=1,
            cpu_chunk=4,
            device_chunk=8,
            joint=joint,
            prepare=self.prepare,
        )


def numbers(count: int) -> NDArray[np.float32]:
    return np.arange(count, dtype=np.float32)[:, None]


@pytest.mark.parametrize("count", [1, 8, 11])
def test_a_device_without_room_gets_half_batches_from_then_on(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    net = Crowded(room=4)
    run = net.runner()
    for _ in range(2):
        double, triple = run(numbers(count))
        np.testing.assert_array_equal(double, 2 * numbers(count))
        np.testing.assert_array_equal(triple, 3 * numbers(count))
    assert net.asked[:3] == [8, 4, 4]
    assert set(net.asked[1:]) == {4}  # a whole batch is not tried again
    assert [record.getMessage() for record in caplog.records] == [
        "meta has no room for 8 rows: halved"
    ]


def test_a_device_with_room_gets_whole_batches() -> None:
    net = Crowded(room=8)
    net.runner()(numbers(20))
    assert net.asked == [8, 8, 8]


def test_a_batch_is_halved_once_and_then_the_video_fails_in_words() -> None:
    net = Crowded(room=3)
    run = net.runner()
    with pytest.raises(OutOfMemoryFault, match=r"the device 'meta' has too little memory .* 9\.00"):
        run(numbers(8))
    assert net.asked == [8, 4]


def test_batches_of_one_row_or_none_are_tried_as_they_are() -> None:
    net = Crowded(room=0)
    run = net.runner(joint=False)
    with pytest.raises(OutOfMemoryFault):
        run(numbers(1))
    assert net.asked == [1, 1]
    assert [len(part) for part in run(numbers(0))] == [0, 0]


def test_places_are_tried_anew_in_batches_of_half_the_size() -> None:
    """Whether rows may share a batch was learned from kernels that run no more."""
    net = Crowded(room=8)
    run = net.runner()
    joint = run._joint
    assert joint is not None
    joint._joinable[((1,), "<f4")] = True
    net.room = 4
    run(numbers(8))
    assert joint._joinable == {}


def test_other_errors_of_a_device_are_not_taken_for_a_lack_of_room() -> None:
    asked: list[int] = []

    def forward(rows: Tensor) -> tuple[Tensor, ...]:
        asked.append(len(rows))
        raise RuntimeError("an illegal memory access was encountered")

    run = Runner(forward, device=DEVICE, threads=1, cpu_chunk=4, device_chunk=8)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(numbers(8))
    assert asked == [8]


class Shared:
    """A net on a CPU that finds no room for two chunks at once; it doubles what it is given.

    Args:
        error: What it raises then.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.sizes: list[int] = []
        self._both = threading.Barrier(2, timeout=30)
        self._guard = threading.Lock()

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        with self._guard:
            self.sizes.append(len(rows))
            first_two = len(self.sizes) <= 2
        if first_two:
            self._both.wait()  # passes only when two chunks are under way
            raise self.error
        return (2 * rows,)


@pytest.mark.parametrize("error", [RuntimeError(NO_ROOM), MemoryError("std::bad_alloc")])
def test_on_a_cpu_the_same_chunks_run_one_by_one(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Chunks of another size could have other bits."""
    net = Shared(error)
    run = Runner(net.forward, device=CPU, threads=2, cpu_chunk=4, device_chunk=8)
    (answer,) = run(numbers(8))
    np.testing.assert_array_equal(answer, 2 * numbers(8))
    assert net.sizes == [4, 4, 4, 4]
    assert "no room in memory for 2 chunks at once" in caplog.text


def test_a_cpu_without_room_for_one_chunk_fails_in_words() -> None:
    asked: list[int] = []

    def forward(rows: Tensor) -> tuple[Tensor, ...]:
        asked.append(len(rows))
        raise RuntimeError(NO_ROOM)

    run = Runner(forward, device=CPU, threads=1, cpu_chunk=4, device_chunk=8)
    with pytest.raises(OutOfMemoryFault, match="the machine has too little memory") as caught:
        run(numbers(4))
    assert asked == [4, 4]
    again: Any = pickle.loads(pickle.dumps(caught.value))  # it travels from workers
    assert str(again) == str(caught.value) and again.hint


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("whatever"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError(NO_ROOM), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_room_is_known_by_type_or_words(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
