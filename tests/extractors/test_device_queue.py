"""The way to a device and back. What a real GPU makes of it is in tests/test_gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.device_queue import Answer, DeviceQueue

GPU = torch.device("cuda", 1)


class Log:
    """Stands in for torch's streams and events of CUDA, and notes what they are asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "Stream", lambda device: FakeStream(self, "copies"))
        monkeypatch.setattr(cuda, "current_stream", self._current)
        monkeypatch.setattr(cuda, "stream", self._on)
        monkeypatch.setattr(cuda, "Event", lambda **options: FakeEvent(self, **options))
        monkeypatch.setattr(Tensor, "pin_memory", lambda value: value.clone())
        monkeypatch.setattr(Tensor, "to", lambda value, device, non_blocking: value.clone())
        monkeypatch.setattr(
            Tensor, "record_stream", lambda value, stream: self.note(f"kept for {stream.name}")
        )
        empty = torch.empty
        monkeypatch.setattr(
            torch,
            "empty",
            lambda shape, *, pin_memory, **kind: empty(shape, **kind) if pin_memory else None,
        )

    def _current(self, device: torch.device) -> FakeStream:
        assert device == GPU  # not the one that happens to be current
        return FakeStream(self, "computing")

    def note(self, words: str) -> None:
        self.notes.append(words)

    @contextmanager
    def _on(self, stream: FakeStream) -> Iterator[None]:
        self.note(f"on {stream.name}")
        yield
        self.note(f"off {stream.name}")


class FakeStream:
    device = GPU

    def __init__(self, log: Log, name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: FakeStream) -> None:
        self.log.note(f"{self.name} waits for {other.name}")


class FakeEvent:
    def __init__(self, log: Log, *, blocking: bool) -> None:
        assert blocking  # else waiting takes a core
        self.log = log

    def record(self, stream: FakeStream) -> None:
        self.log.note(f"event behind {stream.name}")

    def synchronize(self) -> None:
        self.log.note("waited for the event")


def cuda_queue(monkeypatch: pytest.MonkeyPatch) -> tuple[DeviceQueue, Log]:
    """A queue of CUDA whose tensors lie on the CPU."""
    log = Log(monkeypatch)
    return DeviceQueue(torch.device("cuda")), log


@pytest.mark.parametrize("named", [False, True])
def test_rows_go_there_on_a_stream_of_their_own(
    monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    queue, log = cuda_queue(monkeypatch)
    rows: Any = torch.arange(6.0).reshape(2, 3)
    there: Any = queue.send(queue.pin({"rows": rows} if named else rows))
    assert torch.equal(there["rows"] if named else there, rows)
    assert log.notes == [
        "on copies",
        "off copies",
        "computing waits for copies",
        "kept for computing",
    ]


def test_only_the_own_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, log = cuda_queue(monkeypatch)
    outputs = torch.arange(4.0), torch.arange(4, dtype=torch.bfloat16)
    answer = queue.answer(outputs)
    assert log.notes == ["event behind computing"]  # and nobody has waited
    arrays = answer.wait()
    assert log.notes[1:] == ["waited for the event"]
    for array in arrays:
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.arange(4))


def test_other_devices_are_asked_in_the_plain_way() -> None:
    queue = DeviceQueue(torch.device("meta"))
    rows = torch.zeros(2, 3)
    assert queue.pin(rows) is rows
    there = queue.send({"rows": rows})
    assert isinstance(there, dict)
    assert there["rows"].device.type == "meta"
    (array,) = queue.answer((torch.ones(2, dtype=torch.float16),)).wait()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [1, 1])


def test_an_answer_on_the_cpu_is_there() -> None:
    (array,) = Answer((torch.ones(3),)).wait()
    np.testing.assert_array_equal(array, [1, 1, 1])
