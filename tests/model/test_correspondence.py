"""LCC: the loss in blocks equals the equation written out; what learns, and within which limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.correspondence import SCOPES, TARGETS, VARIANTS, Correspondence

CHANNELS = 16


def streams(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), CHANNELS, max(lengths))
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    vision = torch.randn(shape, generator=generator)
    return vision, torch.randn(shape, generator=generator), mask


def written_out(loss: Correspondence, vision: Tensor, audio: Tensor, mask: Tensor) -> Tensor:
    """Eqs 2-5 with all N x N targets and logits."""
    video, step = mask.nonzero(as_tuple=True)
    v = F.normalize(loss.project["vision"](vision.transpose(1, 2)[mask]), dim=-1)
    a = F.normalize(loss.project["audio"](audio.transpose(1, 2)[mask]), dim=-1)
    logits = v @ a.T / loss.temperature
    count = len(step)
    same = video[:, None] == video[None]
    if loss.variant == "diagonal":
        target = torch.eye(count)
    elif loss.variant == "softened":
        inside = same if loss.scope == "video" else torch.ones_like(same)
        others = (inside.sum(1, keepdim=True) - 1).clamp(min=1)
        target = (inside * (loss.smoothing / others)).fill_diagonal_(1 - loss.smoothing)
    else:
        distance = (step[:, None] - step).abs() / math.sqrt(2)
        if loss.sigma_unit == "video":
            distance = distance / torch.tensor([step[video == row].max() + 1 for row in video])
        sigma = loss.sigma()
        target = torch.exp(-(distance**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        target = target * same
        if loss.targets == "normalised":
            target = target / target.sum(1, keepdim=True)
    to_sound = -(target * logits.log_softmax(1)).sum(1).mean()
    to_picture = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (to_sound + to_picture) / 2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("unit", "sigma"), [("steps", 2.0), ("video", 0.1)])
def test_the_loss_and_its_gradients_are_those_of_the_equation(
    variant: str, targets: str, scope: str, unit: str, sigma: float
) -> None:
    torch.manual_seed(1)
    loss = Correspondence(
        CHANNELS,
        variant=variant,
        targets=targets,
        scope=scope,
        sigma=sigma,
        sigma_unit=unit,
        block=7,
    )
    vision, audio, mask = streams(12, 1, 9)
    mask[0, 3] = False  # a hole
    vision.requires_grad_()
    gradients = []
    values = []
    for function in (loss, lambda *inputs: written_out(loss, *inputs)):
        value = function(vision, audio, mask)
        parameters = [p for p in loss.parameters() if p.requires_grad]
        found = torch.autograd.grad(value, [vision, *parameters], allow_unused=True)
        gradients.append([torch.zeros(()) if one is None else one for one in found])
        values.append(value.detach())
    torch.testing.assert_close(values[0], values[1])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("unit", "sigma"), [("steps", 1.0), ("video", 0.1)])
def test_padding_changes_nothing(unit: str, sigma: float) -> None:
    loss = Correspondence(CHANNELS, sigma_unit=unit, sigma=sigma)
    vision, audio, mask = streams(12, 9)
    padded = [F.pad(x, (0, 20), value=1e3) for x in (vision, audio)]
    torch.testing.assert_close(
        loss(vision, audio, mask), loss(*padded, F.pad(mask, (0, 20), value=False))
    )


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.values = max(self.values, value.numel())
        return out


@pytest.mark.parametrize("variant", ["diagonal", "learnable"])
def test_the_logits_of_all_pairs_are_neither_made_at_once_nor_kept(variant: str) -> None:
    videos, steps, block = 32, 16, 16
    rows = videos * steps
    loss = Correspondence(CHANNELS, variant=variant, block=block).train()
    vision, audio, mask = streams(*[steps] * videos)
    kept: dict[int, int] = {}  # by place in memory: some are kept for several operations

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with Largest() as seen:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss(vision.requires_grad_(), audio, mask)
        value.backward()
    # A block of logits at once, of 262,144 pairs of the batch; what is kept is of the pairs within
    # the videos, 8,192.
    assert block * rows <= seen.values <= max(block * rows, videos * steps**2)
    assert sum(kept.values()) < rows**2 / 2


def test_sum_of_the_directions_is_twice_their_mean() -> None:
    torch.manual_seed(0)
    mean = Correspondence(CHANNELS)
    total = Correspondence(CHANNELS, directions="sum")
    total.load_state_dict(mean.state_dict())
    inputs = streams(8, 5)
    torch.testing.assert_close(total(*inputs), 2 * mean(*inputs))


def test_deviation_and_temperature_learn_only_where_they_may() -> None:
    for variant in VARIANTS:
        loss = Correspondence(CHANNELS, variant=variant)
        loss(*streams(8, 5)).backward()
        assert loss.temperature.grad is not None
        assert loss.temperature.grad != 0
        assert (loss.log_sigma.grad is not None) == (variant == "learnable")


@pytest.mark.parametrize(("start", "limit"), [(1e-3, 0.3), (1e3, 256 / 8)])
def test_a_deviation_past_its_limit_is_held_there_and_can_return(
    start: float, limit: float
) -> None:
    loss = Correspondence(CHANNELS, sigma=start, max_steps=256).train()
    loss(*streams(30, 20)).backward()
    assert loss.sigma().item() == pytest.approx(limit)
    assert loss.log_sigma.grad is not None
    assert loss.log_sigma.grad != 0


def test_the_limits_of_the_deviation_are_in_its_unit_and_the_lower_one_can_be_chosen() -> None:
    def limits(**more: Any) -> list[float]:
        found = []
        for sigma in (1e-9, 1e9):
            loss = Correspondence(CHANNELS, sigma=sigma, max_steps=64, **more).train()
            loss(*streams(8))
            found.append(loss.sigma().item())
        return found

    assert limits() == pytest.approx([0.3, 8])
    assert limits(least_sigma=0.1) == pytest.approx([0.1, 8])
    assert limits(sigma_unit="video") == pytest.approx([0.3 / 64, 1 / 8])


def test_a_share_of_the_video_gives_a_longer_one_wider_targets() -> None:
    loss = Correspondence(CHANNELS, sigma=0.1, sigma_unit="video", targets="normalised")
    mask = streams(8, 32)[2]
    short, long = loss._targets(mask)[0].detach()
    assert short[0, 1] / short[0, 0] == pytest.approx(math.exp(-((1 / 8) ** 2) / 4 / 0.01))
    assert long[0, 4] / long[0, 0] == pytest.approx(short[0, 1] / short[0, 0])


def test_the_temperature_is_held_within_its_limits() -> None:
    loss = Correspondence(CHANNELS, temperature=3.0).train()
    loss(*streams(8))
    assert loss.temperature.item() == pytest.approx(0.5)


def test_a_batch_without_a_common_step_costs_nothing() -> None:
    loss = Correspondence(CHANNELS)
    vision, audio, mask = streams(8)
    vision.requires_grad_()
    value = loss(vision, audio, torch.zeros_like(mask))
    value.backward()
    assert value == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "x"},
        {"targets": "x"},
        {"scope": "x"},
        {"directions": "x"},
        {"sigma_unit": "x"},
    ],
    ids=str,
)
def test_an_unknown_choice_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'x'"):
        Correspondence(CHANNELS, **wrong)


def test_matching_streams_cost_less_than_shuffled_ones() -> None:
    torch.manual_seed(0)
    loss = Correspondence(CHANNELS, variant="diagonal")
    loss.project["audio"].load_state_dict(loss.project["vision"].state_dict())
    vision, _, mask = streams(30)
    assert loss(vision, vision, mask) < loss(vision, vision[..., torch.randperm(30)], mask)
