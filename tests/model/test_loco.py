"""The network: what padding, windows, masks and length may and may not change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.decoding import DecodingSettings, decode, detect_sequence
from model.loco import LoCo, Prediction
from model.perception import DynamicPerception, GlobalAttention, SlidingAttention
from model.pyramid import FUSIONS

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # the order of float32 sums differs with the padded length


def small(**changes: Any) -> LoCo:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "vision_dim": 12,
        "audio_dim": 6,
        "classes": 4,
        "channels": 16,
        "decoder_channels": 16,
        "heads": 4,
        "max_seq_len": 64,
        "drop_path": 0.0,
    }
    model = LoCo(**(arguments | changes))
    with torch.no_grad():  # the gains start at 1e-4, which would hide every mistake in the blocks
        for name, value in model.named_parameters():
            if name.endswith(("drop_attention.scale", "drop_feed.scale")):
                value.fill_(0.5)
    return model.eval()


def batch(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    vision = torch.randn(len(lengths), 12, longest, generator=generator)
    audio = torch.randn(len(lengths), 6, longest, generator=generator)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return vision, audio, mask, mask.clone()


def levels(prediction: Prediction, video: int, steps: list[int]) -> Tensor:
    """Logits of the first ``steps[l]`` points of each level of one video."""
    found, first = [], 0
    for length, wanted in zip(prediction.lengths, steps, strict=True):
        found.append(prediction.logits[video, first : first + wanted])
        first += length
    return torch.cat(found)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("residual", ["query", "kv"])
def test_a_batch_gives_each_video_what_it_gets_alone(fusion: str, residual: str) -> None:
    model = small(fusion=fusion, residual=residual)
    vision, audio, vision_mask, audio_mask = batch(70, 41, 1)
    audio_mask[0, :20] = False  # sound that starts late
    together = model(vision, audio, vision_mask, audio_mask)
    for video, length in enumerate((70, 41, 1)):
        part = (slice(video, video + 1), ..., slice(0, length))
        alone = model(vision[part], audio[part], vision_mask[part], audio_mask[part])
        torch.testing.assert_close(
            levels(together, video, list(alone.lengths)), alone.logits[0], **CLOSE
        )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_lies_under_the_mask_changes_nothing(fusion: str) -> None:
    model = small(fusion=fusion)
    vision, audio, vision_mask, audio_mask = batch(40)
    vision_mask[:, 25:] = False
    audio_mask[:, :10] = False
    clean = model(vision, audio, vision_mask, audio_mask)
    dirty_vision, dirty_audio = vision.clone(), audio.clone()
    dirty_vision[..., 25:] = 1e4
    dirty_audio[..., :10] = -1e4
    dirty = model(dirty_vision, dirty_audio, vision_mask, audio_mask)
    torch.testing.assert_close(clean.logits, dirty.logits, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_video_without_sound_gives_finite_answers(fusion: str) -> None:
    model = small(fusion=fusion)
    vision, audio, vision_mask, audio_mask = batch(30)
    prediction = model(vision, audio, vision_mask, torch.zeros_like(audio_mask))
    assert prediction.logits.isfinite().all()
    assert prediction.mask.all()


def test_without_fusion_the_streams_never_meet_before_the_decoder() -> None:
    model = small(fusion="none")
    vision, audio, vision_mask, audio_mask = batch(30)
    one = model.pyramid(vision[:, :4].repeat(1, 4, 1), vision[:, :4].repeat(1, 4, 1),
                        vision_mask[:, None], audio_mask[:, None])  # fmt: skip
    two = model.pyramid(vision[:, :4].repeat(1, 4, 1), audio[:, :4].repeat(1, 4, 1),
                        vision_mask[:, None], audio_mask[:, None])  # fmt: skip
    for (picture, *_), (same, *_) in zip(one, two, strict=True):
        torch.testing.assert_close(picture, same, rtol=0, atol=0)


def test_untrained_dynamic_windows_are_fixed_windows_exactly() -> None:
    dynamic, fixed = small(fusion="dynamic"), small(fusion="fixed")
    missing = fixed.load_state_dict(dynamic.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all("adapt" in key for key in missing.unexpected_keys)
    inputs = batch(70, 41)
    assert torch.equal(dynamic(*inputs).logits, fixed(*inputs).logits)


def windows(steps: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 1, 2, steps, 4, generator=generator).unbind(0)
    features = torch.randn(1, 8, steps, generator=generator)
    return query, key, value, torch.ones(1, steps, dtype=torch.bool), features


@pytest.mark.parametrize("shift", [-3, 2, 9])
def test_a_whole_number_offset_shifts_the_keys(shift: int) -> None:
    query, key, value, valid, features = windows()
    dynamic = DynamicPerception(8, 2, 8)
    with torch.no_grad():
        bias = dynamic.adapt.regress.bias
        assert bias is not None
        bias[2:] = 2 * shift / 8  # the second half holds the offsets, in half windows
    moved = dynamic(query, key, value, valid, features)
    index = torch.arange(32) + shift
    inside = (index >= 0) & (index < 32)
    index = index.clamp(0, 31)
    expected = SlidingAttention(4)(
        query, key[:, :, index] * inside[:, None], value[:, :, index] * inside[:, None],
        inside[None],
    )  # fmt: skip
    torch.testing.assert_close(moved, expected)


def test_a_window_far_outside_attends_to_nothing() -> None:
    query, key, value, valid, features = windows()
    dynamic = DynamicPerception(8, 2, 8)
    with torch.no_grad():
        assert dynamic.adapt.regress.bias is not None
        dynamic.adapt.regress.bias[2:] = 1e6
    assert torch.equal(dynamic(query, key, value, valid, features), torch.zeros_like(query))


def test_sliding_attention_that_reaches_everything_is_global_attention() -> None:
    query, key, value, valid, _ = windows()
    valid[:, 20:] = False
    torch.testing.assert_close(
        SlidingAttention(32)(query, key, value, valid), GlobalAttention()(query, key, value, valid)
    )


def test_every_parameter_learns() -> None:
    model = small().train()
    with torch.no_grad():  # away from the exact zeros of the start
        for module in model.modules():
            if isinstance(module, DynamicPerception):
                module.adapt.regress.weight.normal_(0, 0.05)
    prediction = model(*batch(64, 64))
    segments = [torch.tensor([[3.3, 9.1], [20.0, 60.0]]), torch.tensor([[30.0, 33.0]])]
    labels = [torch.tensor([0, 2]), torch.tensor([1])]
    model.loss(prediction, segments, labels).total.backward()
    silent = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    # Key biases shift all logits of a query alike: softmax cannot see them.
    assert [name for name in silent if not name.endswith("project_key.bias")] == []


@pytest.mark.parametrize("variant", ["diagonal", "softened", "fixed", "learnable", "none"])
@pytest.mark.parametrize("targets", ["raw", "normalised"])
def test_every_correspondence_variant_gives_a_finite_loss(variant: str, targets: str) -> None:
    model = small(correspondence=variant, correspondence_targets=targets).train()
    losses = model.loss(model(*batch(40, 30)), [torch.zeros(0, 2)] * 2, [torch.zeros(0).long()] * 2)
    assert losses.total.isfinite()
    assert (losses.correspondence > 0) == (variant != "none")


def test_a_tiny_model_learns_one_batch_by_heart() -> None:
    model = small(levels=4, channels=32, decoder_channels=32).train()
    inputs = batch(32, 32)
    segments = [torch.tensor([[4.5, 11.5]]), torch.tensor([[8.2, 27.7], [20.0, 23.0]])]
    labels = [torch.tensor([1]), torch.tensor([3, 0])]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(150):
        loss = model.loss(model(*inputs), segments, labels).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for found, truth, names in zip(decode(model.eval()(*inputs)), segments, labels, strict=True):
        best = len(truth)
        order = found.labels[:best].argsort()
        assert found.labels[:best][order].tolist() == names.sort().values.tolist()
        torch.testing.assert_close(
            found.segments[:best][order], truth[names.argsort()], rtol=0, atol=1.0
        )


def test_a_long_sequence_in_pieces_finds_what_the_whole_finds() -> None:
    model = small(unimodal_blocks=0, max_seq_len=600)
    with torch.no_grad():
        for name in ("vision", "audio"):  # places are counted from the start of each piece
            model.embed[name].table.zero_()
    vision, audio, mask, _ = batch(600)
    settings = DecodingSettings(min_score=1e-4, max_total=10)
    whole = detect_sequence(model, vision[0], audio[0], mask[0], mask[0], settings=settings)
    settings = replace(settings, chunk=384, overlap=256)
    pieces = detect_sequence(model, vision[0], audio[0], mask[0], mask[0], settings=settings)
    torch.testing.assert_close(pieces.segments, whole.segments, rtol=0, atol=1e-3)
    assert pieces.labels.tolist() == whole.labels.tolist()


def test_half_an_hour_fits_through_a_model_of_64_steps() -> None:
    model = small()
    vision, audio, mask, _ = batch(7200)
    found = detect_sequence(model, vision[0], audio[0], mask[0], mask[0])
    assert len(found.scores) > 0
    assert found.segments.isfinite().all()
