"""Batches that several threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.joint import DEVICE_ROWS, JointBatches
from extractors.registry import load_backbone
from extractors.runner import Runner

CPU = torch.device("cpu")
Rows = NDArray[Any]


class Device:
    """A stand-in for a device: one batch at a time, which a test may hold up.

    Args:
        net: What it computes of a batch.
    """

    def __init__(self, net: Callable[[Rows], Rows] = lambda x: 2 * x) -> None:
        self.net = net
        self.batches: list[Rows] = []
        self.held = threading.Event()  # set: the device answers
        self.held.set()
        self.busy = threading.Event()

    def launch(self, batch: Rows) -> Rows:
        self.batches.append(batch.copy())
        return self.net(batch)

    def collect(self, launched: Rows) -> tuple[NDArray[np.float32], ...]:
        self.busy.set()
        assert self.held.wait(30)
        return (launched.astype(np.float32),)

    def joint(self, rows: int = 8) -> JointBatches[Rows]:
        return JointBatches(self.launch, self.collect, rows=rows)


def numbers(first: int, count: int) -> Rows:
    return np.arange(first, first + count, dtype=np.float64)[:, None]


def ask_together(joint: JointBatches[Rows], device: Device, asked: list[Rows]) -> list[Any]:
    """Answers, or what was raised, of threads that all ask while the device is at the first."""
    device.held.clear()
    with ThreadPoolExecutor(len(asked) + 1) as pool:
        first = pool.submit(joint, numbers(1000, 1))
        assert device.busy.wait(30)
        futures = [pool.submit(joint, rows) for rows in asked]
        while len(joint._waiting) < len(asked):  # all wait
            threading.Event().wait(0.01)
        device.held.set()
        first.result()
        return [future.exception() or future.result()[0] for future in futures]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 23])
def test_one_thread_gets_its_rows_in_order_in_batches_of_one_size(count: int) -> None:
    device = Device()
    (answer,) = device.joint()(numbers(0, count))
    np.testing.assert_array_equal(answer, 2 * numbers(0, count))
    assert {len(batch) for batch in device.batches} == {8}
    assert len(device.batches) == -(-count // 8)


def test_free_places_repeat_a_row_that_the_net_can_stand() -> None:
    device = Device()
    device.joint()(numbers(5, 3))
    assert device.batches[0].ravel().tolist() == [5, 6, 7, 5, 5, 5, 5, 5]


def test_what_waits_is_joined_and_each_gets_its_own() -> None:
    device = Device()
    joint = device.joint()
    answers = ask_together(joint, device, [numbers(0, 3), numbers(10, 4), numbers(20, 6)])
    for answer, (first, count) in zip(answers, [(0, 3), (10, 4), (20, 6)], strict=True):
        np.testing.assert_array_equal(answer, 2 * numbers(first, count))
    # One alone, then 13 rows in two; the first of these also in reverse, as its kind was new.
    assert len(device.batches) == 1 + 2 + 1
    assert sorted(device.batches[1].ravel()) == sorted(device.batches[2].ravel())


def test_rows_of_different_shapes_or_types_are_not_joined() -> None:
    device = Device()
    wide = np.ones((2, 2))
    bytes_ = np.full((2, 1), 7, np.uint8)
    answers = ask_together(device.joint(), device, [numbers(0, 2), wide, bytes_])
    assert [answer.shape for answer in answers] == [(2, 1), (2, 2), (2, 1)]
    assert answers[2].tolist() == [[14], [14]]
    assert len(device.batches) == 4


@pytest.mark.parametrize("counts", [(3, 3), (3, 11), (5, 8, 17)])
def test_a_net_whose_answer_changes_with_the_place_is_never_joined(counts: tuple[int, ...]) -> None:
    """As a kernel that splits its sums by the place of a row; the trial itself joins for once."""
    device = Device(lambda x: x + 1e-3 * np.arange(len(x))[:, None])
    joint = device.joint()
    asked = [numbers(100 * place, count) for place, count in enumerate(counts)]
    for _ in range(2):
        together = ask_together(joint, device, asked)
        alone = [Device(device.net).joint()(rows)[0] for rows in asked]
        for one, other in zip(together, alone, strict=True):
            assert one.tobytes() == other.tobytes()


def test_an_error_in_company_stays_with_its_cause() -> None:
    def net(x: Rows) -> Rows:
        if (x == 13).any():
            raise RuntimeError("thirteen")
        return 2 * x

    device = Device(net)
    good, bad, other = ask_together(
        device.joint(), device, [numbers(0, 2), numbers(13, 1), numbers(20, 2)]
    )
    assert isinstance(bad, RuntimeError)
    np.testing.assert_array_equal(good, 2 * numbers(0, 2))
    np.testing.assert_array_equal(other, 2 * numbers(20, 2))
    np.testing.assert_array_equal(device.joint()(numbers(3, 1))[0], [[6]])  # and it goes on


def test_a_trial_that_fails_joins_that_kind_no_more() -> None:
    """Whether its places are alike is then not known."""
    device = Device(lambda x: x + 1e-3 * np.arange(len(x))[:, None])
    real, joint = device.launch, device.joint()

    def launch(batch: Rows) -> Rows:
        if len(set(batch.ravel() // 100)) > 1:
            raise RuntimeError("not these together")
        return real(batch)

    joint._launch = launch
    asked = [numbers(0, 5), numbers(100, 11)]
    together = ask_together(joint, device, asked)
    for one, rows in zip(together, asked, strict=True):
        assert one.tobytes() == Device(device.net).joint()(rows)[0].tobytes()


def test_an_interrupt_of_the_thread_that_serves_leaves_the_service_to_others() -> None:
    device = Device()
    joint = device.joint()
    collect, calls = joint._collect, []

    def interrupted(launched: Rows) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return collect(launched)

    joint._collect = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        joint(numbers(0, 2))
    np.testing.assert_array_equal(joint(numbers(4, 2))[0], [[8], [10]])


def test_many_threads_get_what_each_would_get_alone() -> None:
    device = Device(lambda x: x * x + 1)
    joint = device.joint(rows=5)
    generator = np.random.default_rng(0)
    asked = [generator.normal(size=(int(n), 3)) for n in generator.integers(1, 17, 60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(joint, asked))
    for (answer,), rows in zip(answers, asked, strict=True):
        np.testing.assert_array_equal(answer, (rows * rows + 1).astype(np.float32))
    assert {len(batch) for batch in device.batches} == {5}


def test_a_runner_that_joins_gives_the_same_bits_alone_and_in_company() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2304, 64)
    ).eval()

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        return (layers(x),)

    def run() -> Runner:
        return Runner(forward, device=CPU, threads=1, cpu_chunk=4, device_chunk=8, joint=True)

    generator = np.random.default_rng(0)
    asked = [
        generator.normal(size=(int(n), 3, 14, 14)).astype(np.float32)
        for n in generator.integers(1, 20, 24)
    ]
    alone = [run()(rows)[0] for rows in asked]
    shared = run()
    with ThreadPoolExecutor(6) as pool:
        for expected, (found,) in zip(alone, pool.map(shared, asked), strict=True):
            assert found.tobytes() == expected.tobytes()


def test_the_real_encoders_give_the_same_bits_alone_and_in_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Runner.__init__

    def joining(self: Runner, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options, joint=True)

    monkeypatch.setattr(Runner, "__init__", joining)
    monkeypatch.setattr("extractors.runner.DEVICE_ROWS", 4)
    backbone = load_backbone("lite", device="cpu", threads=1)
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (n, 160, 288, 3), dtype=np.uint8) for n in (3, 5, 2)]
    sounds = [generator.normal(0, 0.1, (n, 16_000)).astype(np.float32) for n in (4, 1, 6)]
    for embed, asked in (
        (backbone.vision.embed, pictures),
        (backbone.audio.embed, sounds),
    ):
        alone = [embed(rows) for rows in asked]  # type: ignore[operator]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(embed, asked))
        for one, other in zip(alone, found, strict=True):
            assert one.embeddings.tobytes() == other.embeddings.tobytes()
            assert one.scores.tobytes() == other.scores.tobytes()


def test_a_batch_of_a_device_is_no_larger_than_what_a_lane_hands_over() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(x))
        return (x,)

    run = Runner(forward, device=CPU, threads=1, cpu_chunk=4, device_chunk=512, joint=True)
    run(np.zeros((40, 1), np.float32))
    assert sizes == [DEVICE_ROWS, DEVICE_ROWS]
