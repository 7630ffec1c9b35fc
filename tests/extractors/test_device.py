"""Where encoders run, and with how many threads of the CPU."""

from __future__ import annotations

import os

import pytest
import torch

import extractors.device as module
from extractors.device import select_device
from pipeline.core.errors import UsageError


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A torch that thinks it has eight threads; what is set is remembered, nothing is started."""
    count = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: count.__setitem__(0, n))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return count


@pytest.mark.parametrize(("limit", "threads"), [(None, 8), (2, 2), (12, 8)])
def test_torch_takes_no_more_threads_than_the_container_has_cores(
    eight_threads: list[int], monkeypatch: pytest.MonkeyPatch, limit: int | None, threads: int
) -> None:
    monkeypatch.setattr(module, "core_limit", lambda: limit)
    assert select_device("cpu").type == "cpu"
    assert eight_threads == [threads]


def test_the_users_own_number_of_threads_is_kept(
    eight_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "core_limit", lambda: 2)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "8")
    select_device("cpu")
    assert eight_threads == [8]


def test_a_name_that_is_no_device_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown device 'toaster'"):
        select_device("toaster")
