"""The network: what padding, windows, masks and length may and may not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.attention import Block
from model.build import build_loco
from model.decoding import decode
from model.embedding import sinusoid
from model.loco import LoCo, Prediction
from model.losses import RunningNormaliser
from model.mixing import GlobalAttention
from model.perception import DynamicPerception
from model.pyramid import FUSIONS
from model.softnms import interval_iou
from pipeline.core.errors import ConfigError
from tests.fixtures.windows import wandering

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # the order of float32 sums differs with the padded length


def small_model(**changes: Any) -> LoCo:
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
    model = wandering(small_model(fusion=fusion, residual=residual))
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
    model = wandering(small_model(fusion=fusion))
    vision, audio, vision_mask, audio_mask = batch(40)
    vision_mask[:, 25:] = False
    audio_mask[:, :10] = False
    clean = model(vision, audio, vision_mask, audio_mask)
    dirty_vision, dirty_audio = vision.clone(), audio.clone()
    dirty_vision[..., 25:] = 1e4
    dirty_audio[..., :10] = -1e4
    dirty = model(dirty_vision, dirty_audio, vision_mask, audio_mask)
    torch.testing.assert_close(clean.logits, dirty.logits, rtol=0, atol=0)
    dirty_vision[..., 25:] = torch.nan
    dirty = model(dirty_vision, dirty_audio, vision_mask, audio_mask)
    torch.testing.assert_close(clean.logits, dirty.logits, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_video_without_sound_gives_finite_answers(fusion: str) -> None:
    model = small_model(fusion=fusion)
    vision, audio, vision_mask, audio_mask = batch(30)
    prediction = model(vision, audio, vision_mask, torch.zeros_like(audio_mask))
    assert prediction.logits.isfinite().all()
    assert prediction.mask.all()


def test_without_fusion_the_streams_never_meet_before_the_decoder() -> None:
    model = small_model(fusion="none")
    vision, audio, vision_mask, audio_mask = batch(30)
    one = model.pyramid(vision[:, :4].repeat(1, 4, 1), vision[:, :4].repeat(1, 4, 1),
                        vision_mask[:, None], audio_mask[:, None])  # fmt: skip
    two = model.pyramid(vision[:, :4].repeat(1, 4, 1), audio[:, :4].repeat(1, 4, 1),
                        vision_mask[:, None], audio_mask[:, None])  # fmt: skip
    for (picture, *_), (same, *_) in zip(one, two, strict=True):
        torch.testing.assert_close(picture, same, rtol=0, atol=0)


def test_untrained_dynamic_windows_are_fixed_windows_exactly() -> None:
    dynamic, fixed = small_model(fusion="dynamic"), small_model(fusion="fixed")
    missing = fixed.load_state_dict(dynamic.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all("adapt" in key for key in missing.unexpected_keys)
    inputs = batch(70, 41)
    assert torch.equal(dynamic(*inputs).logits, fixed(*inputs).logits)


def test_every_parameter_learns() -> None:
    model = small_model().train()
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


def test_a_tiny_model_learns_one_batch_by_heart() -> None:
    model = small_model(levels=4, unimodal_blocks=1, decoder_blocks=0).train()
    inputs = batch(32, 32)
    segments = [torch.tensor([[4.5, 11.5]]), torch.tensor([[8.2, 27.7], [20.0, 23.0]])]
    labels = [torch.tensor([1]), torch.tensor([3, 0])]
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    history = []
    for _ in range(80):
        loss = model.loss(model(*inputs), segments, labels).total
        history.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert history[-1] < history[0] / 3
    for found, truth, names in zip(decode(model.eval()(*inputs)), segments, labels, strict=True):
        for segment, label in zip(truth, names, strict=True):
            best = (found.labels == label).nonzero()[0]  # detections come best first
            assert interval_iou(found.segments[best], segment) > 0.8
        assert set(found.labels[: len(names)].tolist()) == set(names.tolist())


def test_a_step_that_the_asking_stream_lacks_asks_nothing() -> None:
    """Where the residual follows the answers its result counts; its neighbours must not ask."""
    torch.manual_seed(0)
    block = Block(8, 2, GlobalAttention(), residual="kv").eval()
    torch.nn.init.ones_(block.drop_attention.scale)
    query, other = torch.randn(2, 1, 8, 12)
    there = torch.ones(1, 1, 12, dtype=torch.bool)
    lacking = there.clone()
    lacking[..., 5] = False
    louder = query.clone()
    louder[..., 4] *= -3.0
    said, _ = block(query, other, lacking, there)
    again, _ = block(louder, other, lacking, there)
    assert torch.equal(again[..., 5], said[..., 5])
    assert not torch.equal(again[..., 4], said[..., 4])


@pytest.mark.parametrize("residual", ["query", "kv"])
def test_a_stream_keeps_its_own_mask_through_the_pyramid(residual: str) -> None:
    model = small_model(fusion="global", residual=residual)
    _, _, vision_mask, audio_mask = batch(32)
    audio_mask[:, 16:] = False
    x = torch.zeros(1, 16, 32)
    found = model.pyramid(x, x, vision_mask[:, None], audio_mask[:, None])
    for level, (_, _, picture, sound) in enumerate(found):
        assert picture.sum() == 32 >> level
        assert sound.sum() == max(1, 16 >> level)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "stretched"},
        {"embedding_layers": 1},
        {"band": "full"},
        {"band": "window"},
        {"adaptation": "separate"},
        {"adaptation": "query"},
        {"decoder_attention": "global"},
        {"decoder_blocks": 0},
        {"decoder_blocks": 2},
        {"levels": 1},
        {"levels": 7},
        {"window": 5},
    ],
    ids=str,
)
def test_every_switch_keeps_videos_apart_and_trains(changes: dict[str, Any]) -> None:
    model = wandering(small_model(**changes))
    vision, audio, vision_mask, audio_mask = batch(90, 71)  # both longer than the position table
    together = model(vision, audio, vision_mask, audio_mask)
    for video, length in enumerate((90, 71)):
        part = (slice(video, video + 1), ..., slice(0, length))
        alone = model(vision[part], audio[part], vision_mask[part], audio_mask[part])
        torch.testing.assert_close(
            levels(together, video, list(alone.lengths)), alone.logits[0], **CLOSE
        )
    events = [torch.tensor([[3.0, 20.0]]), torch.tensor([[30.0, 33.0]])]
    model.train().loss(together, events, [torch.tensor([0]), torch.tensor([3])]).total.backward()


def test_stretched_positions_are_the_table_up_to_its_length() -> None:
    continued, stretched = small_model(), small_model(positions="stretched")
    short, long = batch(64), batch(65)
    assert torch.equal(continued(*short).logits, stretched(*short).logits)
    assert not torch.allclose(continued(*long).logits, stretched(*long).logits)


def test_places_beyond_the_table_are_computed_once_for_all_videos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counted(steps: int, channels: int) -> Tensor:
        made.append(steps)
        return sinusoid(steps, channels)

    model = small_model()
    monkeypatch.setattr("model.embedding.sinusoid", counted)
    with torch.inference_mode():
        long, shorter = model(*batch(90)).logits, model(*batch(75)).logits
    assert len(made) == 2  # one for each stream
    kept = {name: model.embed[name].table for name in ("vision", "audio")}
    for name in kept:
        model.embed[name].table = sinusoid(90, kept[name].shape[1])
    assert torch.equal(model(*batch(90)).logits, long)
    assert torch.equal(model(*batch(75)).logits, shorter)
    assert "longer" not in " ".join(model.state_dict())


def test_the_loss_counts_positive_points_and_missed_events() -> None:
    model = small_model().train()
    prediction = model(*batch(32, 32))
    segments = [torch.tensor([[4.2, 4.8], [10.0, 14.0]]), torch.zeros(0, 2)]
    losses = model.loss(prediction, segments, [torch.tensor([0, 1]), torch.zeros(0).long()])
    assert losses.missed == 1  # between the points 4 and 5
    assert losses.positives == 3  # the points 11, 12 and 13


def test_videos_without_events_give_a_loss_that_trains() -> None:
    model = small_model().train()
    losses = model.loss(model(*batch(20, 9)), [torch.zeros(0, 2)] * 2, [torch.zeros(0).long()] * 2)
    assert losses.intervals == 0
    losses.total.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


def test_a_batch_without_any_step_in_common_gives_a_finite_loss() -> None:
    model = small_model().train()
    vision, audio, vision_mask, audio_mask = batch(16)
    prediction = model(vision, audio, vision_mask, torch.zeros_like(audio_mask))
    loss = model.loss(prediction, [torch.tensor([[2.0, 9.0]])], [torch.tensor([1])]).total
    loss.backward()
    assert loss.isfinite()


def test_the_normaliser_is_a_running_mean_that_evaluation_leaves_alone() -> None:
    normaliser = RunningNormaliser(initial=250.0)
    assert normaliser(torch.tensor(50)) == pytest.approx(0.9 * 250 + 0.1 * 50)
    assert normaliser(torch.tensor(0)) == pytest.approx(0.9 * 230 + 0.1)
    before = normaliser.count.clone()
    normaliser.eval()
    assert normaliser(torch.tensor(9)) == before


def test_bfloat16_gives_the_same_picture() -> None:
    model = small_model()
    inputs = batch(64)
    exact = model(*inputs).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(*inputs).logits
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chanels": 8}, r"no argument 'chanels' \(did you mean 'channels'\?\)"),
        ({"heads": 3}, "16 channels do not split into 3 heads"),
        ({"fusion": "magic"}, "'magic'"),
        ({"interval": "ciou"}, "'ciou'"),
        ({"correspondence": "x"}, "'x'"),
    ],
)
def test_the_builder_names_what_does_not_fit(arguments: dict[str, Any], message: str) -> None:
    plain = {"vision_dim": 4, "audio_dim": 3, "classes": 2, "channels": 16}
    with pytest.raises(ConfigError, match=message):
        build_loco(**(plain | arguments))


def test_the_builder_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="lacks audio_dim, classes"):
        build_loco(vision_dim=4)


def test_the_network_of_the_papers_size_is_smaller_than_those_it_is_compared_with() -> None:
    with torch.device("meta"):  # shapes only
        model = LoCo(vision_dim=1536, audio_dim=1536, classes=100).eval()
        features, mask = torch.zeros(1, 1536, 256), torch.ones(1, 256, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(features, features, mask, mask)
    assert sum(value.numel() for value in model.parameters()) < 130.75e6  # UniAV; UnAV 140.9e6
    assert counter.get_total_flops() < 22.8e9  # UniAV; UnAV 128.6e9
