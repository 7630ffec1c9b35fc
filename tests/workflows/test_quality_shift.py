"""Content or position: which of the two a network goes by can be told from outside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from extractors.windows import WindowGrid
from model.loco import LoCo
from workflows.quality.shift import mean_shares, shift_sound

GRID = WindowGrid()  # four steps a second
STEPS, LAG, NEAR = 120, 40, 4


class Streams(nn.Module):
    """Unimodal outputs that hold what comes in, or where it stands, or nothing of either."""

    def __init__(self, goes_by: str) -> None:
        super().__init__()
        self.goes_by = goes_by
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, vision: Tensor, audio: Tensor, *masks: Tensor) -> SimpleNamespace:
        assert all(mask.all() for mask in masks)
        if self.goes_by == "content":
            return SimpleNamespace(vision=vision, audio=audio)
        places = torch.eye(vision.shape[2])[None]
        if self.goes_by == "first":  # every picture is most like the first sound
            return SimpleNamespace(vision=torch.ones_like(places), audio=places.cummax(1).values)
        return SimpleNamespace(vision=places, audio=places)


def moments(steps: int) -> Tensor:
    """Each step's own direction, (steps, steps)."""
    return torch.eye(steps)


def shares(goes_by: str, *, steps: int = STEPS) -> tuple[float, float, float]:
    present = torch.ones(steps, dtype=torch.bool)
    model = cast(LoCo, Streams(goes_by))
    found = shift_sound(model, (moments(steps), moments(steps), present, present), GRID)
    assert found is not None
    return found.own, found.place, found.content


def test_a_network_that_goes_by_content_follows_the_sound() -> None:
    assert shares("content") == (1.0, 0.0, 1.0)


def test_a_network_that_goes_by_position_stays() -> None:
    assert shares("position") == (1.0, 1.0, 0.0)


def test_one_that_goes_by_neither_is_right_as_often_as_chance() -> None:
    chance = (2 * NEAR + 1) / STEPS
    assert shares("first") == pytest.approx((chance, chance, chance))


def test_a_video_too_short_to_tell_the_two_apart_is_left_out() -> None:
    present = torch.ones(2 * LAG - 1, dtype=torch.bool)
    inputs = (moments(2 * LAG - 1), moments(2 * LAG - 1), present, present)
    assert shift_sound(cast(LoCo, Streams("content")), inputs, GRID) is None
    assert shares("content", steps=2 * LAG) == (1.0, 0.0, 1.0)


def test_steps_that_lack_picture_or_sound_do_not_take_part() -> None:
    seen, heard = torch.ones(2, 130, dtype=torch.bool)
    seen[:10], heard[125:] = False, False
    content = torch.randn(130, 130, generator=torch.Generator().manual_seed(0))
    model = cast(LoCo, Streams("content"))
    found = shift_sound(model, (content * seen, content * heard, seen, heard), GRID)
    assert found is not None
    assert (found.own, found.content) == (1.0, 1.0)
    assert found.chance == pytest.approx((2 * NEAR + 1) / 115)


def test_means_are_over_videos() -> None:
    present = torch.ones(STEPS, dtype=torch.bool)
    inputs = (moments(STEPS), moments(STEPS), present, present)
    rows = [
        shift_sound(cast(LoCo, Streams(goes_by)), inputs, GRID)
        for goes_by in ("content", "position")
    ]
    mean = mean_shares([row for row in rows if row is not None])
    assert mean is not None
    assert (mean.own, mean.place, mean.content) == (1.0, 0.5, 0.5)
    assert mean_shares([]) is None
