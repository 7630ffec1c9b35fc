"""Which steps become anchors."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.anchors import AnchorFusion, Anchors, control_ranking, select_anchors
from model.clasp import CLASP
from model.pooling import AttentivePooling, ModalityPooling, top_mean
from model.propagation import Propagation


def chosen(anchors: Anchors, video: int, *, local: bool) -> list[int]:
    here = anchors.valid[video] & (anchors.is_local == local)
    return sorted(anchors.index[video][here].tolist())


def by_loops(score: torch.Tensor, valid: torch.Tensor, divisor: int, window: int, best: int):
    """The definition, video by video and window by window."""
    steps = [t for t in range(len(score)) if valid[t]]
    ranked = sorted(steps, key=lambda t: -score[t])
    wide = ranked[: max(1, len(steps) // divisor)] if steps else []
    near = []
    for first in range(0, len(score), window):
        near += sorted(
            (t for t in range(first, first + window) if t in steps), key=lambda t: -score[t]
        )[:best]
    return sorted(wide), sorted(near)


@pytest.mark.parametrize("steps", [1, 5, 16, 37])
@pytest.mark.parametrize(("divisor", "window", "best"), [(8, 16, 2), (3, 4, 3), (100, 50, 60)])
def test_anchors_are_the_best_valid_steps_of_video_and_windows(
    steps: int, divisor: int, window: int, best: int
) -> None:
    generator = torch.Generator().manual_seed(steps)
    score = torch.rand(4, steps, generator=generator)
    valid = torch.rand(4, steps, generator=generator) < 0.7
    valid[3] = False
    found = select_anchors(score, valid, divisor=divisor, window=window, per_window=best)
    for video in range(4):
        wide, near = by_loops(score[video], valid[video], divisor, window, best)
        assert chosen(found, video, local=False) == wide
        assert chosen(found, video, local=True) == near
    assert not found.valid[3].any(), "a video without a valid step has no anchor"


class Count(TorchDispatchMode):
    """Counts the operations that torch is asked for."""

    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        return func(*args, **(kwargs or {}))


def operations_of_selection(videos: int, steps: int) -> int:
    score, valid = torch.rand(videos, steps), torch.ones(videos, steps, dtype=torch.bool)
    with Count() as count:
        select_anchors(score, valid, keep_repeated=False)
    return count.operations


def operations_of_network(videos: int, steps: int) -> int:
    model = CLASP(vision_dim=4, audio_dim=3, classes=2, channels=8, heads=2, max_seq_len=256)
    mask = torch.ones(videos, steps, dtype=torch.bool)
    vision, audio = torch.randn(videos, 4, steps), torch.randn(videos, 3, steps)
    with Count() as count:
        model.eval()(vision, audio, mask, mask)
    return count.operations


@pytest.mark.parametrize("operations", [operations_of_selection, operations_of_network])
def test_no_loop_runs_over_videos_or_time(operations) -> None:
    few = operations(2, 33)
    assert 0 < few == operations(9, 33) == operations(2, 211)


def test_padding_changes_no_anchor() -> None:
    score = torch.rand(1, 21, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(score, (0, 50), value=9.0)
    valid = torch.arange(71)[None] < 21
    alone = select_anchors(score, valid[:, :21])
    together = select_anchors(padded, valid)
    for local in (False, True):
        assert chosen(alone, 0, local=local) == chosen(together, 0, local=local)


def test_scopes_leave_the_other_kind_out_and_repeats_can_be_dropped() -> None:
    score = torch.rand(2, 40, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, 40, dtype=torch.bool)
    assert not select_anchors(score, valid, scope="global").is_local.any()
    assert select_anchors(score, valid, scope="local").is_local.all()
    kept = select_anchors(score, valid)
    dropped = select_anchors(score, valid, keep_repeated=False)
    for video in range(2):
        wide, near = (chosen(kept, video, local=local) for local in (False, True))
        assert set(wide) & set(near), "the best of the video is the best of its window"
        assert chosen(dropped, video, local=True) == sorted(set(near) - set(wide))
    with pytest.raises(ValueError, match="unknown scope"):
        select_anchors(score, valid, scope="near")


def test_random_anchors_are_drawn_anew_in_training_only_and_spread_ones_never() -> None:
    score, other = torch.rand(2, 30), torch.rand(2, 30)

    def ranking(control: str, training: str) -> Tensor:
        return control_ranking(score, control=control, training=training == "training")

    fixed = ranking("spread", "training")
    assert torch.equal(fixed[0], fixed[1]) and fixed.unique().numel() > 20
    assert torch.equal(fixed, control_ranking(other, control="spread", training=False))
    assert torch.equal(fixed, ranking("random", "test"))
    assert not torch.equal(ranking("random", "training"), ranking("random", "training"))
    assert torch.equal(ranking("least", "test"), 1 - score)
    with pytest.raises(ValueError, match="unknown control 'most'"):
        ranking("most", "test")


@pytest.mark.parametrize("steps", [24, 170, 256])
def test_spread_anchors_leave_no_part_of_the_video_out(steps: int) -> None:
    ranking = control_ranking(torch.zeros(1, steps), control="spread", training=True)
    found = select_anchors(ranking, torch.ones(1, steps, dtype=torch.bool), scope="global")
    places = [0, *sorted(found.index[0].tolist()), steps]
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert max(gaps) <= 3 * 8, "three times what a regular grid would leave"


def test_joint_fusion_gives_both_modalities_one_anchor_and_own_fusion_two() -> None:
    torch.manual_seed(0)
    audio, vision = torch.randn(1, 8, 10), torch.randn(1, 8, 10)
    anchors = select_anchors(torch.rand(1, 10), torch.ones(1, 10, dtype=torch.bool))
    joint = AnchorFusion(8)(audio, vision, anchors)
    assert torch.equal(joint["audio"], joint["vision"])
    own = AnchorFusion(8, fusion="own")
    before = own(audio, vision, anchors)
    after = own(audio, torch.randn(1, 8, 10), anchors)
    assert torch.equal(before["audio"], after["audio"]), "the other modality has no say"
    assert not torch.equal(before["vision"], after["vision"])


def test_an_anchor_is_what_its_equation_says_and_knows_its_kind() -> None:
    torch.manual_seed(0)
    audio, vision = torch.randn(1, 4, 10), torch.randn(1, 4, 10)
    index, is_local = torch.tensor([[7, 2, 7]]), torch.tensor([False, True, True])
    anchors = Anchors(index, torch.ones(1, 3, dtype=torch.bool), is_local)
    fuse = AnchorFusion(4)
    linear, norm = fuse.maps["both"][0], fuse.maps["both"][2]
    found = fuse(audio, vision, anchors)["audio"][0]
    for place, (step, kind) in enumerate([(7, 0), (2, 1), (7, 1)]):
        features = torch.cat([audio[0, :, step], vision[0, :, step]])
        joined = norm(torch.nn.functional.gelu(linear(features))) + fuse.kinds[kind]
        assert torch.allclose(found[place], joined, atol=1e-6)
    assert (found[0] - found[2]).abs().max() > 1e-3, "one step, two kinds"


def propagated_by_hand(
    module: Propagation, stream: Tensor, anchors: Tensor, score: Tensor, *, threshold: float | None
) -> Tensor:
    """(C, T), head by head, of a stream (C, T) and anchors (N, C)."""
    count, width = len(anchors), len(stream) // module.heads
    query = module.query(module.norm(stream[None]))[0].T
    key, value = module.key(anchors), module.value(anchors)
    parts = []
    for head in range(module.heads):
        own = slice(head * width, (head + 1) * width)
        like = query[:, own] @ key[:, own].T / math.sqrt(width)
        if threshold is None:
            weight = (like + (score + 1e-3).log()).softmax(1)
        else:
            weight = like.clamp(min=0)
            weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
            weight = weight.where(weight > threshold / count, 0)
        parts.append(weight @ value[:, own])
    read = module.out(torch.cat(parts, 1).T[None])
    gate = 1 / (1 + torch.exp(-module.gate(torch.cat([stream[None], read], 1))))
    enhanced = stream[None] + gate * read
    return (enhanced + module.feed(module.norm_feed(enhanced)))[0]


@pytest.mark.parametrize("threshold", [None, 0.95, 0.3])
def test_propagation_is_what_its_equations_say(threshold: float | None) -> None:
    torch.manual_seed(0)
    operator = "attention" if threshold is None else "threshold"
    free = {} if threshold in (None, 0.95) else {"threshold": threshold}
    module = Propagation(8, 2, operator=operator, **free)
    torch.nn.init.normal_(module.gate.bias, std=2.0)
    stream, anchors, score = torch.randn(1, 8, 20), torch.randn(1, 6, 8), torch.rand(1, 6)
    mask, valid = torch.ones(1, 1, 20, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool)
    found = module(stream, mask, anchors, valid, score)
    expected = propagated_by_hand(module, stream[0], anchors[0], score[0], threshold=threshold)
    assert torch.allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize("operator", ["attention", "threshold"])
@pytest.mark.parametrize(("gate", "rest"), [("step", False), ("step", True), ("channel", False)])
def test_propagation_reads_valid_anchors_only_and_survives_none(
    operator: str, gate: str, rest: bool
) -> None:
    torch.manual_seed(0)
    module = Propagation(8, 2, operator=operator, gate=gate, rest=rest).eval()
    stream, mask = torch.randn(2, 8, 6), torch.ones(2, 1, 6, dtype=torch.bool)
    anchors, score = torch.randn(2, 5, 8), torch.rand(2, 5)
    valid = torch.tensor([[True, True, False, True, False], [False] * 5])
    found = module(stream, mask, anchors, valid, score)
    other = anchors.masked_fill(~valid[..., None], 1e4)
    assert torch.equal(found, module(stream, mask, other, valid, score))
    assert found.isfinite().all()
    alone = module(stream[1:], mask[1:], anchors[1:, :0], valid[1:, :0], score[1:, :0])
    assert torch.allclose(found[1:], alone, atol=1e-6), "no anchors: nothing was read"
    changed = anchors.clone()
    changed[0, 0] += 1
    assert not torch.allclose(found[0], module(stream, mask, changed, valid, score)[0])


def test_anchors_of_no_agreement_hardly_count() -> None:
    torch.manual_seed(0)
    module = Propagation(8, 2).eval()
    stream, mask = torch.randn(1, 8, 6), torch.ones(1, 1, 6, dtype=torch.bool)
    anchors, valid = torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool)
    sure = module(stream, mask, anchors, valid, torch.tensor([[1.0, 0.0]]))
    first = module(stream, mask, anchors[:, :1], valid[:, :1], torch.ones(1, 1))
    even = module(stream, mask, anchors, valid, torch.ones(1, 2))
    assert (sure - first).abs().max() < 0.02 * (even - first).abs().max().clamp(min=0.05)


def read_by(module: Propagation, stream: Tensor) -> Tensor:
    """What each step reads of one anchor, (1, 8, 6)."""
    found = []
    module.out.register_forward_hook(lambda *call: found.append(call[2]))
    anchors, valid = torch.randn(1, 1, 8), torch.ones(1, 1, dtype=torch.bool)
    module(stream, torch.ones(1, 1, 6, dtype=torch.bool), anchors, valid, torch.ones(1, 1))
    return found[0]


def test_where_an_anchor_stands_for_nothing_no_step_has_to_read_the_others() -> None:
    torch.manual_seed(0)
    stream = torch.randn(1, 8, 6)
    forced = read_by(Propagation(8, 2), stream)
    assert torch.allclose(forced, forced[..., :1].expand_as(forced), atol=1e-6)
    free = read_by(Propagation(8, 2, rest=True), stream)
    assert not torch.allclose(free, free[..., :1].expand_as(free), atol=1e-3)


def test_a_gate_for_each_channel_closes_some_and_not_others() -> None:
    torch.manual_seed(0)
    stream, mask = torch.randn(1, 8, 6), torch.ones(1, 1, 6, dtype=torch.bool)
    anchors, valid = torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool)
    module = Propagation(8, 2, gate="channel").eval()
    with torch.no_grad():
        module.gate.bias.copy_(torch.tensor([-50.0] * 4 + [50.0] * 4))
        module.feed[2].weight.zero_()
    changed = module(stream, mask, anchors, valid, torch.ones(1, 2)) - stream
    assert changed[:, :4].abs().max() < 1e-6 < changed[:, 4:].abs().min()


def test_no_propagation_returns_the_stream() -> None:
    stream = torch.randn(1, 8, 6)
    module = Propagation(8, 2, operator="none")
    nothing = torch.zeros(1, 0)
    assert module(stream, stream[:, :1] > 0, nothing[..., None], nothing > 0, nothing) is stream
    assert not list(module.parameters())


def test_top_mean_takes_the_best_eighth_of_the_valid_steps() -> None:
    values = torch.rand(3, 4, 33, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(33) < torch.tensor([[33], [9], [0]])
    found = top_mean(values, valid)
    for video, (steps, count) in enumerate([(33, 4), (9, 1)]):
        best = values[video, :, :steps].sort(dim=1, descending=True).values[:, :count]
        assert torch.allclose(found[video], best.mean(1))
    assert found[2].eq(0).all()


def test_attentive_pooling_starts_as_the_mean_of_the_valid_steps() -> None:
    pool = AttentivePooling(5, 4)
    values, features = torch.rand(2, 4, 7), torch.randn(2, 5, 7)
    valid = torch.arange(7) < torch.tensor([[7], [3]])
    found = pool(values, features, valid)
    assert torch.allclose(found[1], values[1, :, :3].mean(1), atol=1e-6)
    assert pool(values, features, valid & False).eq(0).all()


def test_attentive_pooling_is_the_mean_by_the_softmax_of_its_features() -> None:
    torch.manual_seed(0)
    pool = AttentivePooling(5, 4)
    torch.nn.init.normal_(pool.weigh.weight)
    values, features = torch.rand(2, 4, 7), torch.randn(2, 5, 7)
    valid = torch.arange(7) < torch.tensor([[7], [3]])
    found = pool(values, features, valid)
    for video, steps in enumerate((7, 3)):
        weight = (pool.weigh.weight[..., 0] @ features[video, :, :steps]).exp()
        mean = (weight * values[video, :, :steps]).sum(1) / weight.sum(1)
        assert torch.allclose(found[video], mean, atol=1e-6)


def test_pooling_over_modalities_is_hans_product_of_two_softmaxes() -> None:
    torch.manual_seed(0)
    pool = ModalityPooling(5, 4)
    names = ("joint", "vision", "audio", "evidence_vision", "evidence_audio")
    values = {name: torch.rand(2, 4, 7) for name in names}
    streams = {name: torch.randn(2, 5, 7) for name in ("vision", "audio")}
    valid = torch.arange(7) < torch.tensor([[7], [3]])
    plain = pool(values, streams, valid)
    for name in names:
        assert torch.allclose(plain[name][1], values[name][1, :, :3].mean(1), atol=1e-6), name
    for layer in (pool.over_time, pool.over_modalities):
        torch.nn.init.normal_(layer.weight)
    found = pool(values, streams, valid)
    for video, steps in enumerate((7, 3)):
        time, modality = (
            {name: layer(stream)[video, :, :steps].exp() for name, stream in streams.items()}
            for layer in (pool.over_time, pool.over_modalities)
        )
        weight = {name: part / part.sum(1, keepdim=True) for name, part in time.items()}
        both = modality["vision"] + modality["audio"]
        weight["joint"] = sum(weight[name] * modality[name] / both for name in streams)
        for name in names:
            value = values[name][video, :, :steps]
            expected = (weight[name.split("_")[-1]] * value).sum(1)
            assert torch.allclose(found[name][video], expected, atol=1e-6), name
    sure = pool({"joint": torch.ones(2, 4, 7)}, {n: 9 * s for n, s in streams.items()}, valid)
    assert sure["joint"].max() <= 1, "weights may be more than 1 together, a probability may not"
    assert pool(values, streams, valid & False)["joint"].eq(0).all()
