"""A small network is trained on one core, unless the user says otherwise."""

from __future__ import annotations

import pytest
import torch

from workflows.training.threads import CHOICE, SMALL_LAYER, few_threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that thinks it has three threads; what is set is remembered, nothing is started."""
    count = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: count.__setitem__(0, n))
    monkeypatch.delenv(CHOICE, raising=False)


@pytest.mark.parametrize(
    ("values", "device", "within"),
    [(SMALL_LAYER - 1, CPU, 1), (SMALL_LAYER, CPU, 3), (1, GPU, 3)],
)
def test_small_layers_get_one_core(values: int, device: torch.device, within: int) -> None:
    with few_threads(values, device):
        assert torch.get_num_threads() == within
    assert torch.get_num_threads() == 3


def test_the_users_own_number_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "3")
    with few_threads(1, CPU):
        assert torch.get_num_threads() == 3


def test_an_error_gives_the_cores_back() -> None:
    with pytest.raises(ValueError, match="stop"), few_threads(1, CPU):
        raise ValueError("stop")
    assert torch.get_num_threads() == 3
