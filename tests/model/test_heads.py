"""Decoder and heads: what levels side by side may and may not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.heads import Decoder, Heads

CHANNELS, CLASSES = 8, 3
LENGTHS = (24, 12, 6, 3)
Levels = list[tuple[Tensor, Tensor]]


def some_levels() -> Levels:
    """Levels of two videos, of which the second ends early."""
    levels = []
    for steps in LENGTHS:
        mask = torch.arange(steps) < torch.tensor([[[steps]], [[max(1, steps * 2 // 3)]]])
        levels.append((torch.randn(2, 2 * CHANNELS, steps) * mask, mask))
    return levels


def decoder(**choices: Any) -> Decoder:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"window": 8, "attention": "local", "blocks": 2} | choices
    module = Decoder(
        2 * CHANNELS, CHANNELS, heads=2, expansion=1, drop_path=0.0, **arguments
    ).eval()
    for block in module.blocks:  # gains start near nothing, and would hide what a block reads
        torch.nn.init.ones_(block.drop_attention.scale)
        torch.nn.init.ones_(block.drop_feed.scale)
    return module


@torch.no_grad()
@pytest.mark.parametrize(
    "choices",
    [{}, {"window": 2}, {"window": 32}, {"blocks": 0}, {"attention": "global"}],
    ids=str,
)
def test_levels_in_one_row_say_what_each_says_alone(choices: dict[str, Any]) -> None:
    module = decoder(**choices)
    heads = Heads(CHANNELS, CLASSES, levels=len(LENGTHS)).eval()
    torch.nn.init.constant_(heads.regress.out.conv.bias, 5.0)  # none is cut off at 0
    levels = some_levels()
    row = module(levels)
    assert row.lengths == LENGTHS
    logits, distances = (x.split(LENGTHS, 1) for x in heads(row))
    whole = row.levels(row.x.transpose(1, 2))
    for number, level in enumerate(levels):
        alone = module([level])
        torch.testing.assert_close(whole[number], alone.x.transpose(1, 2), rtol=1e-5, atol=1e-5)
        own = Heads(CHANNELS, CLASSES, levels=1).eval()
        own.load_state_dict(heads.state_dict() | {"scale": heads.scale[number : number + 1]})
        for found, expected in zip((logits[number], distances[number]), own(alone), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_level_has_its_own_scale_of_distances() -> None:
    module, levels = decoder(), some_levels()
    heads = Heads(CHANNELS, CLASSES, levels=len(LENGTHS)).eval()
    before = heads(module(levels))[1].split(LENGTHS, 1)
    heads.scale[2] = 3.0
    after = heads(module(levels))[1].split(LENGTHS, 1)
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        torch.testing.assert_close(other, one * (3.0 if number == 2 else 1.0))
