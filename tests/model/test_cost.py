"""Operations and parameters: against counts made by hand, and against the public systems'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.attention import UnimodalBlocks
from model.build import build_loco
from model.cost import PUBLIC, Cost, measure_cost
from model.embedding import Embedding
from model.heads import Heads, side_by_side
from model.pyramid import Pyramid
from pipeline.core.errors import ConfigError

PAPER: dict[str, Any] = {"vision_dim": 1536, "audio_dim": 1536, "classes": 100}
TINY: dict[str, Any] = {
    "vision_dim": 5,
    "audio_dim": 7,
    "classes": 3,
    "channels": 4,
    "heads": 2,
    "unimodal_blocks": 1,
    "levels": 2,
    "window": 4,
    "decoder_channels": 6,
    "max_seq_len": 16,
}
T, C, H, W, DECODER, CLASSES = 16, 4, 2, 4, 6, 3  # of TINY; both levels are whole windows
LENGTHS = (16, 8)


def product(steps: int, inputs: int, outputs: int, *, kernel: int = 1) -> int:
    """Operations of a convolution: a multiply and an add for each weight at each step."""
    return 2 * steps * inputs * outputs * kernel


def block(steps: int, channels: int, *, keys: int, expansion: int = 4) -> int:
    depthwise = 3 * product(steps, 1, channels, kernel=3)
    projections = 4 * product(steps, channels, channels)
    attention = 2 * (2 * steps * keys * channels)  # logits, then the mean of the values
    feed = 2 * product(steps, channels, expansion * channels)
    return depthwise + projections + attention + feed


def by_hand(*, keys: Callable[[int], int], adaptations: int) -> dict[str, int]:
    """The tiny network's operations by part; ``keys`` that a query of a level is compared with."""
    embedding = sum(
        product(T, inputs, C, kernel=3) + product(T, C, C, kernel=3) for inputs in (5, 7)
    )
    pyramid = sum(
        2 * block(steps, C, keys=keys(steps)) + 2 * adaptations * product(steps // W, C, 2 * H)
        for steps in LENGTHS
    )
    row = sum(LENGTHS) + (len(LENGTHS) - 1) * (W // 2)  # all levels, and masked steps in between
    windows = -(-row // W) * W  # attention runs whole windows
    decoder = (
        product(row, 2 * C, DECODER)
        + block(row, DECODER, keys=0, expansion=1)
        + 4 * windows * 2 * W * DECODER
    )
    heads = sum(
        2 * product(row, DECODER, DECODER, kernel=3) + product(row, DECODER, outputs, kernel=3)
        for outputs in (CLASSES, 2 * CLASSES)
    )
    return {
        "embedding": embedding,
        "unimodal blocks": 2 * block(T, C, keys=T),
        "pyramid": pyramid,
        "decoder": decoder,
        "heads": heads,
        "LCC": 0,
    }


def parts(cost: Cost) -> dict[str, int]:
    return {part.name: part.flops for part in cost.parts}


@pytest.mark.parametrize(
    ("choice", "keys", "adaptations"),
    [
        # A window of 4 queries meets its own 4 keys and 2, 3 or no more to either side.
        ({"fusion": "fixed"}, lambda steps: 8, 0),
        ({"fusion": "fixed", "band": "full"}, lambda steps: 10, 0),
        ({"fusion": "fixed", "band": "window"}, lambda steps: 4, 0),
        ({"fusion": "none"}, lambda steps: 8, 0),
        ({"fusion": "global"}, lambda steps: steps, 0),
        ({"fusion": "dynamic"}, lambda steps: 8, 1),
        ({"fusion": "dynamic", "adaptation": "separate"}, lambda steps: 8, 2),
        ({"fusion": "dynamic", "adaptation": "query"}, lambda steps: 8, 1),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_operations_are_those_that_a_count_by_hand_finds(
    choice: dict[str, str], keys: Callable[[int], int], adaptations: int
) -> None:
    cost = measure_cost({**TINY, **choice}, steps=T)
    assert parts(cost) == by_hand(keys=keys, adaptations=adaptations)
    assert cost.flops == sum(by_hand(keys=keys, adaptations=adaptations).values())


def test_a_length_that_is_no_whole_window_is_counted_as_it_is_executed() -> None:
    # 13 steps run as 4 windows of 4 queries, then 7 steps as 2.
    cost = parts(measure_cost({**TINY, "fusion": "fixed"}, steps=13))["pyramid"]
    whole = [block(steps, C, keys=0) + 2 * (2 * run * 8 * C) for steps, run in ((13, 16), (7, 8))]
    assert cost == 2 * sum(whole)


def test_the_count_is_that_of_a_network_with_weights_that_runs() -> None:
    torch.manual_seed(0)
    model = build_loco(**TINY).eval()
    mask = torch.ones(1, T, dtype=torch.bool)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 5, T), torch.randn(1, 7, T), mask, mask)
    cost = measure_cost(TINY, steps=T)
    assert cost.flops == counter.get_total_flops()
    assert cost.parameters == sum(value.numel() for value in model.parameters())


def test_windows_cost_in_proportion_to_the_length_and_global_attention_more() -> None:
    def pyramid(fusion: str, steps: int) -> int:
        return parts(measure_cost({**TINY, "fusion": fusion}, steps=steps))["pyramid"]

    for fusion in ("dynamic", "fixed"):
        assert pyramid(fusion, 64) == 4 * pyramid(fusion, 16)
    assert pyramid("global", 64) > 4 * pyramid("global", 16)


def test_correspondence_costs_parameters_in_training_only() -> None:
    with_it, without = measure_cost(TINY), measure_cost({**TINY, "correspondence": "none"})
    projections = 2 * (C * C // 2 + C // 2)
    assert with_it.parameters - without.parameters == projections + 2  # sigma and temperature
    assert with_it.inference_parameters == without.inference_parameters == without.parameters
    assert with_it.flops == without.flops


def test_dynamic_windows_cost_an_adaptation_for_each_level_and_direction() -> None:
    fixed, dynamic, separate = (
        measure_cost({**PAPER, **choice})
        for choice in ({"fusion": "fixed"}, {}, {"adaptation": "separate"})
    )
    one = 12 * (512 * 2 * 4 + 2 * 4)
    assert dynamic.parameters - fixed.parameters == one
    assert separate.parameters - fixed.parameters == 2 * one


def test_a_video_longer_than_the_position_table_is_counted_however_positions_go_on() -> None:
    stretched = measure_cost({**TINY, "positions": "stretched"}, steps=40)
    assert stretched == measure_cost({**TINY, "positions": "continued"}, steps=40)


def test_a_video_without_steps_and_a_network_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        measure_cost(TINY, steps=0)
    with pytest.raises(ConfigError, match="did you mean 'window'"):
        measure_cost({**TINY, "windw": 4})


class Backbone(nn.Module):
    """What LoCo, UnAV and UniAV share before their heads; UnAV's and UniAV's choices."""

    def __init__(self, vision: int, audio: int, steps: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(
            Embedding(width, 512, max_seq_len=steps) for width in (vision, audio)
        )
        self.unimodal = nn.ModuleList(
            UnimodalBlocks(512, 4, blocks=2, drop_path=0.1) for _ in range(2)
        )
        self.pyramid = Pyramid(
            512, levels=6, heads=4, window=8, fusion="global", residual="kv", drop_path=0.1
        )

    def forward(self, vision: Tensor, audio: Tensor, mask: Tensor) -> list[Tensor]:
        lengths = mask.sum((1, 2))
        streams = [
            blocks(embed(x, mask, lengths), mask)
            for embed, blocks, x in zip(self.embed, self.unimodal, (vision, audio), strict=True)
        ]
        return [torch.cat(level[:2], 1) for level in self.pyramid(*streams, mask, mask)]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads(512, 100, levels=6, inputs=1024)

    def forward(self, levels: list[Tensor]) -> None:
        masks = [torch.ones_like(level[:, :1], dtype=torch.bool) for level in levels]
        self.heads(side_by_side(list(zip(levels, masks, strict=True)), gap=0))


def count_public(vision: int, audio: int, steps: int) -> tuple[int, int, int, int]:
    """Operations and parameters of the shared backbone, then of UnAV's heads."""
    found: list[int] = []
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        backbone, heads = Backbone(vision, audio, steps).eval(), TwoHeads().eval()
        mask = torch.ones(1, 1, steps, dtype=torch.bool)
        inputs: Any = (torch.empty(1, vision, steps), torch.empty(1, audio, steps), mask)
        for module in (backbone, heads):
            with FlopCounterMode(display=False) as counter:
                inputs = (module(*inputs),)
            size = sum(value.numel() for value in module.parameters())
            found += [counter.get_total_flops(), size]
    return found[0], found[1], found[2], found[3]


def test_the_same_count_gives_what_was_measured_on_unavs_own_code() -> None:
    # Measured there at 224 steps with 2048 + 128 values: 14.1 GFLOP before the dependency block,
    # 4.6 GFLOP of heads, 60,696,882 parameters of both.
    backbone, backbone_size, heads, heads_size = count_public(2048, 128, 224)
    assert round(backbone / 1e9, 1) == 14.1
    assert round(heads / 1e9, 1) == 4.6
    assert backbone_size + heads_size == 60_696_882


def test_the_public_figures_follow_from_the_public_shapes_by_this_count() -> None:
    backbone, backbone_size, heads, heads_size = count_public(1536, 1536, 256)
    points = sum(256 >> level for level in range(6))
    unav, uniav = PUBLIC

    # UnAV: its dependency block makes 128 channels for each class and back, and runs two small
    # transformer blocks, one over time for each class, one over classes for each step.
    wide = 2 * product(points, 1024, 100 * 128, kernel=3)
    small = sum(
        100 * block(256 >> level, 128, keys=256 >> level, expansion=1) for level in range(6)
    )
    small += points * block(100, 128, keys=100, expansion=1)
    assert backbone + heads + wide + small == pytest.approx(unav.flops, rel=2e-3)

    # UniAV: no such block; its classifier is one convolution more and a product with 100 texts.
    classifier = product(points, 512, 512, kernel=3) + product(points, 512, 100)
    ours = product(points, 512, 100, kernel=3)
    assert backbone + heads + classifier - ours == pytest.approx(uniav.flops, rel=2e-3)
    # Each of its 16 blocks has a feed-forward net and a norm for each of three tasks.
    task = 2 * 512 * 2048 + 2048 + 512 + 2 * 512
    assert backbone_size + heads_size + 32 * task == pytest.approx(uniav.parameters, rel=0.02)


def test_the_papers_network_is_below_both_public_systems() -> None:
    cost = measure_cost(PAPER)
    for system in PUBLIC:
        assert cost.flops < system.flops
        assert cost.parameters < system.parameters
    # The margin to UniAV is small: a wider decoder would spend it.
    wide = measure_cost({**PAPER, "decoder_expansion": 4})
    assert wide.flops > min(system.flops for system in PUBLIC)
