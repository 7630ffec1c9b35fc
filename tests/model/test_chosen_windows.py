"""What a model chose, seen from outside: windows of dynamic perception, similarity of streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.loco import LoCo
from model.similarity import cross_similarity
from model.windows import ChosenWindows, watch_windows

WINDOW, LEVELS, HEADS = 8, 3, 2
STEPS = 44


def small(**more: object) -> LoCo:
    torch.manual_seed(0)
    plain = {"vision_dim": 6, "audio_dim": 5, "classes": 3, "channels": 16, "heads": HEADS}
    plain |= {"unimodal_blocks": 1, "levels": LEVELS, "window": WINDOW, "decoder_channels": 16}
    return LoCo(**{**plain, "max_seq_len": 64, **more}).eval()  # type: ignore[arg-type]


def inputs(*, steps: int = STEPS, valid: int = STEPS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    mask = (torch.arange(steps) < valid)[None]
    return torch.randn(1, 6, steps), torch.randn(1, 5, steps), mask, mask


def chosen(model: LoCo, **more: int) -> list[ChosenWindows]:
    with torch.no_grad(), watch_windows(model.pyramid) as found:
        model(*inputs(**more))
    return found


def test_fresh_windows_are_base_windows_exactly() -> None:
    found = chosen(small())
    assert len(found) == 2 * LEVELS
    for entry in found:
        assert torch.all(entry.size == WINDOW)
        assert torch.all(entry.offset == 0)


def test_a_bias_set_by_hand_gives_the_size_and_place_that_it_says() -> None:
    model = small()
    bias = model.pyramid.audio[1].mixer.adapt.regress.bias
    with torch.no_grad():
        bias.copy_(torch.tensor([0.5, -0.25, 1.0, -2.0]))  # sizes of both heads, then offsets
    (entry,) = (e for e in chosen(model) if e.asks == "audio" and e.level == 1)
    assert entry.size[0, :, 0].tolist() == [12.0, 6.0]
    assert entry.offset[0, :, 0].tolist() == [4.0, -8.0]
    assert entry.answers == "vision"


def test_every_level_has_a_window_for_each_eight_of_its_steps() -> None:
    counts = {entry.level: entry.size.shape[-1] for entry in chosen(small())}
    assert counts == {0: 6, 1: 3, 2: 2}  # 44, 22 and 11 steps


def test_windows_over_padding_are_marked() -> None:
    by_level = {entry.level: entry.valid for entry in chosen(small(), valid=17)}
    assert by_level[0].tolist() == [[True, True, True, False, False, False]]
    assert by_level[1].tolist() == [[True, True, False]]


def test_windows_lie_on_the_stream_that_answers() -> None:
    pairs = {(e.asks, e.answers) for e in chosen(small(residual="kv"))}
    assert pairs == {("vision", "audio"), ("audio", "vision")}
    # With the residual on keys and values, the picture's block is the one that answers.
    model = small(residual="kv")
    with torch.no_grad():
        model.pyramid.vision[0].mixer.adapt.regress.bias.fill_(1.0)
    (entry,) = (e for e in chosen(model) if e.level == 0 and bool((e.offset != 0).all()))
    assert (entry.asks, entry.answers) == ("audio", "vision")


def test_separate_windows_of_keys_and_values_are_told_apart() -> None:
    found = chosen(small(adaptation="separate"))
    assert [entry.part for entry in found if entry.level == 0] == ["key", "value"] * 2


@pytest.mark.parametrize("fusion", ["fixed", "global", "none"])
def test_a_pyramid_without_dynamic_windows_reports_none(fusion: str) -> None:
    assert chosen(small(fusion=fusion)) == []


def test_watching_changes_nothing_and_ends() -> None:
    model = small()
    with torch.no_grad():
        before = model(*inputs())
        with watch_windows(model.pyramid) as found:
            during = model(*inputs())
        known = len(found)
        model(*inputs())
    assert torch.equal(before.logits, during.logits)
    assert len(found) == known


def test_a_stream_is_wholly_similar_to_itself() -> None:
    stream, mask = torch.randn(16, 9), torch.ones(9, dtype=torch.bool)
    found = cross_similarity(stream, 3 * stream, mask, mask)
    assert torch.allclose(found.diagonal(), torch.ones(9), atol=1e-6)
    assert found.abs().max() <= 1 + 1e-6
    assert torch.allclose(found, found.T, atol=1e-6)


def test_steps_that_one_stream_lacks_have_no_row_or_column() -> None:
    vision, audio = torch.randn(16, 9), torch.randn(16, 9)
    seen, heard = torch.arange(9) < 5, torch.arange(9) >= 2
    found = cross_similarity(vision, audio, seen, heard)
    assert found.shape == (5, 7)
    expected = torch.cosine_similarity(vision[:, 4], audio[:, 8], dim=0)
    assert found[-1, -1] == pytest.approx(float(expected), abs=1e-6)
