"""Which keys a query sees: global, sliding, and windows that each head chooses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.mixing import BANDS, Context, GlobalAttention, SlidingAttention, attend, local_attention
from model.perception import ADAPTATIONS, DynamicPerception, sample

STEPS, HEADS, DEPTH, CHANNELS, WINDOW = 32, 2, 4, 8, 8


def windows(steps: int = STEPS) -> tuple[Tensor, Tensor, Tensor, Tensor, Context]:
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 1, HEADS, steps, DEPTH, generator=generator).unbind(0)
    features = torch.randn(3, 1, CHANNELS, steps, generator=generator).unbind(0)
    valid = torch.ones(1, steps, dtype=torch.bool)
    return query, key, value, valid, Context(*features, query_valid=valid)


def dynamic(*, offset: float = 0.0, size: float = 0.0, adaptation: str = "kv") -> DynamicPerception:
    """Windows that all heads move by ``offset`` steps and stretch by 1 + ``size``."""
    module = DynamicPerception(CHANNELS, HEADS, WINDOW, adaptation=adaptation)
    for adapt in (module.adapt, module.adapt_value):
        if adapt is not None:
            assert adapt.regress.bias is not None
            with torch.no_grad():
                adapt.regress.bias[:HEADS] = size
                adapt.regress.bias[HEADS:] = 2 * offset / WINDOW  # in half windows
    return module


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("steps", [1, 7, 8, 33])
def test_local_attention_is_masked_full_attention(band: str, steps: int) -> None:
    query, key, value, valid, _ = windows(steps)
    valid[:, steps // 2] = False
    place = torch.arange(steps)
    distance = (place[:, None] - place).abs()
    near = {
        "half": distance <= WINDOW // 2,
        "full": distance <= WINDOW - 1,
        "window": place[:, None] // WINDOW == place // WINDOW,
    }[band]
    expected = attend(query, key, value, near & valid[:, None, None])
    torch.testing.assert_close(local_attention(WINDOW, band)(query, key, value, valid), expected)


def test_sliding_attention_that_reaches_everything_is_global_attention() -> None:
    query, key, value, valid, _ = windows()
    valid[:, 20:] = False
    torch.testing.assert_close(
        SlidingAttention(32)(query, key, value, valid), GlobalAttention()(query, key, value, valid)
    )


@pytest.mark.parametrize("mixer", [GlobalAttention(), SlidingAttention(4), dynamic()])
def test_a_query_without_a_valid_key_gets_zero_and_a_zero_gradient(mixer: torch.nn.Module) -> None:
    query, key, value, valid, context = windows()
    inputs = [query.requires_grad_(), key.requires_grad_(), value.requires_grad_()]
    found = mixer(*inputs, torch.zeros_like(valid), context)
    assert torch.equal(found, torch.zeros_like(found))
    found.sum().backward()
    for tensor in inputs:
        assert tensor.grad is None or not tensor.grad.any()


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
@pytest.mark.parametrize("shift", [-3, 2, 9])
def test_a_whole_number_offset_shifts_the_keys(shift: int, adaptation: str) -> None:
    query, key, value, valid, context = windows()
    moved = dynamic(offset=shift, adaptation=adaptation)(query, key, value, valid, context)
    index = torch.arange(STEPS) + shift
    inside = (index >= 0) & (index < STEPS)
    index = index.clamp(0, STEPS - 1)
    expected = SlidingAttention(WINDOW // 2)(
        query,
        key[:, :, index] * inside[:, None],
        value[:, :, index] * inside[:, None],
        inside[None],
    )
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("offset", [-1e6, 1e6, 1e30])
def test_a_window_far_outside_attends_to_nothing(offset: float) -> None:
    query, key, value, valid, context = windows()
    found = dynamic(offset=offset)(query, key, value, valid, context)
    assert torch.equal(found, torch.zeros_like(query))


def test_a_window_over_padding_attends_to_nothing_there() -> None:
    query, key, value, valid, context = windows()
    valid[:, 24:] = False
    key, value = key * valid[:, None, :, None], value * valid[:, None, :, None]
    found = dynamic(offset=16)(query, key, value, valid, context)
    assert found[:, :, :4].any()  # samples 16..23 exist
    assert not found[:, :, 12:].any()  # |i - j| <= 4, and samples from place 8 on are padding


def test_a_doubled_window_takes_every_second_step_around_its_centre() -> None:
    module = dynamic(size=1.0)
    moves = module.moves(module.adapt, torch.zeros(1, 8, 16), torch.ones(1, 16).bool())
    places = moves + torch.arange(16)
    expected = torch.tensor([3.5 + 2 * (k - 3.5) for k in range(8)])
    torch.testing.assert_close(places[0, 0, :8], expected)
    torch.testing.assert_close(places[0, 1, 8:], expected + 8)


def test_samples_between_steps_are_interpolated_and_half_valid_ones_are_seen() -> None:
    x = torch.tensor([0.0, 10.0, 20.0, 0.0]).view(1, 1, 4, 1)
    valid = torch.tensor([[True, True, True, False]])
    places = torch.tensor([0.25, 1.0, 2.5, 2.75, -0.5, -0.75, 3.0]).view(1, 1, -1)
    found, seen = sample(x, valid, places - torch.arange(7))
    torch.testing.assert_close(found.flatten(), torch.tensor([2.5, 10.0, 10.0, 5.0, 0.0, 0.0, 0.0]))
    assert seen.flatten().tolist() == [True, True, True, False, True, False, False]


def test_a_moment_is_read_alike_however_late_in_the_video_it_lies() -> None:
    torch.manual_seed(0)
    x, moves = torch.randn(1, 1, 32, 3), torch.randn(1, 1, 32)
    late = 100_000
    found, seen = sample(x, torch.ones(1, 32).bool(), moves)
    later, later_seen = sample(
        F.pad(x, (0, 0, late, 0)),
        F.pad(torch.ones(1, 32).bool(), (late, 0)),
        F.pad(moves, (late, 0)),
    )
    assert torch.equal(later[:, :, late:], found)
    assert torch.equal(later_seen[:, :, late:], seen)


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_gradients_reach_sizes_and_offsets_from_zero(adaptation: str) -> None:
    query, key, value, valid, context = windows()
    module = dynamic(adaptation=adaptation)
    module(query, key, value, valid, context).square().sum().backward()
    for adapt in (module.adapt, module.adapt_value):
        if adapt is not None:
            for parameter in adapt.parameters():
                assert parameter.grad is not None
                assert parameter.grad[:HEADS].any()
                assert parameter.grad[HEADS:].any()


def test_padding_does_not_move_the_windows() -> None:
    _, _, _, valid, context = windows(20)
    module = DynamicPerception(CHANNELS, HEADS, WINDOW)
    torch.nn.init.normal_(module.adapt.regress.weight)
    alone = module.moves(module.adapt, context.key, valid)
    noise = torch.randn(1, CHANNELS, 30)
    padded = torch.cat([context.key, noise], dim=-1)
    valid = torch.arange(50)[None] < 20
    torch.testing.assert_close(module.moves(module.adapt, padded, valid)[..., :24], alone)
