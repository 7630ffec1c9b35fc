"""The weakly supervised network: masks, switches, loss, and that it learns to localise."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.clasp import CLASP, SELECTIONS, Activation
from model.cost import measure_cost
from model.pooling import top_mean

SMALL = {"vision_dim": 6, "audio_dim": 5, "classes": 3, "channels": 16, "heads": 2}


def make(**changes: object) -> CLASP:
    torch.manual_seed(0)
    return CLASP(**{**SMALL, "max_seq_len": 64, **changes}).eval()


def inputs(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    steps = max(lengths)
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    vision = torch.randn(len(lengths), 6, steps, generator=generator)
    audio = torch.randn(len(lengths), 5, steps, generator=generator)
    return vision, audio, mask, mask.clone()


VARIANTS = [
    {},
    *({"selection": name} for name in SELECTIONS[1:]),
    {"anchors": "global"},
    {"anchors": "local", "anchor_window": 5},
    {"anchors": "none"},
    {"anchor_fusion": "own"},
    {"propagation": "threshold"},
    {"propagation": "none"},
    {"anchor_bias": "none"},
    {"anchor_bias": "gradient"},
    {"temporal_gate": True},
    {"stream_fusion": "mean"},
    {"stream_fusion": "mean", "pooling": "attention"},
    {"pooling": "modality"},
    {"gate": "channel", "rest": True},
    {"pooling": "attention"},
    {"keep_repeated": False},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_video_alone_equals_the_same_video_in_a_padded_batch(variant: dict[str, object]) -> None:
    model = make(**variant)
    vision, audio, seen, heard = inputs(40, 17, 1)
    together = model(vision, audio, seen, heard)
    for video, steps in enumerate((40, 17, 1)):
        part = (slice(video, video + 1), ..., slice(steps))
        alone = model(vision[part], audio[part], seen[part], heard[part])
        assert torch.allclose(together.activation[part], alone.activation, atol=1e-5)
        assert torch.allclose(together.agreement[part], alone.agreement, atol=1e-5)
        assert torch.allclose(together.video[video], alone.video[0], atol=1e-5)


def test_nothing_happens_where_one_modality_is_missing() -> None:
    model = make()
    vision, audio, seen, heard = inputs(30, 30)
    heard[0, 10:20] = False
    heard[1] = False
    found = model(vision, audio, seen, heard)
    assert found.activation[0, :, 10:20].eq(0).all() and found.activation[0, :, :10].gt(0).all()
    assert found.activation[1].eq(0).all() and found.video[1].eq(0).all()
    assert found.agreement[1].eq(0).all()
    for value in (found.activation, found.video, *found.pooled.values()):
        assert value.isfinite().all()
    other = audio.masked_fill(~heard[:, None], torch.nan)
    assert torch.equal(model(vision, other, seen, heard).activation, found.activation)


def test_evidence_of_one_modality_does_not_know_the_other() -> None:
    """clasp.md 0.1: the two classifiers judge before the modalities meet."""
    model = make()
    vision, audio, seen, heard = inputs(30)
    before = model(vision, audio, seen, heard).pooled
    after = model(vision, audio.flip(-1) * 3, seen, heard).pooled
    assert torch.equal(before["evidence_vision"], after["evidence_vision"])
    assert not torch.equal(before["vision"], after["vision"])


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("bias", ["score", "gradient", "none"])
def test_an_anchor_weighs_by_what_chose_it_and_a_control_by_nothing(
    selection: str, bias: str
) -> None:
    model = make(selection=selection, anchor_bias=bias)
    given: list[tuple[Tensor, Tensor]] = []
    model.propagate["audio"].register_forward_pre_hook(lambda _, a: given.append((a[3], a[4])))
    found = model(*inputs(40))
    (valid, score), *_ = given
    if bias == "none" or selection in ("random", "spread", "least"):
        assert score.eq(1).all()
        return
    best = found.agreement[0].sort(descending=True).values
    anchors = score[valid].sort(descending=True).values
    assert torch.allclose(anchors[:2], best[:1].expand(2)), "found twice: in video and window"
    assert anchors.min() < anchors.max()


def test_agreement_is_reported_whatever_chooses_the_anchors() -> None:
    usual = make(anchor_bias="none")(*inputs(40))
    for control in ("random", "spread", "least"):
        found = make(selection=control)(*inputs(40))
        assert torch.equal(found.agreement, usual.agreement)
        assert not torch.equal(found.activation, usual.activation)


def test_only_where_it_is_asked_for_does_evidence_learn_from_the_anchors() -> None:
    def slope(bias: str) -> Tensor | None:
        model = make(anchor_bias=bias)
        model(*inputs(40)).pooled["joint"].sum().backward()
        return model.evidence["audio"].weight.grad

    assert slope("score") is None and slope("none") is None
    learned = slope("gradient")
    assert learned is not None and learned.abs().max() > 0


def test_anchors_are_taken_and_propagated_to_after_the_modalities_have_met() -> None:
    """clasp.md 0.1: only evidence is judged before."""
    model = make()
    met: dict[str, Tensor] = {}
    for name in ("audio", "vision"):
        model.cross[name].register_forward_hook(
            lambda _, args, out, name=name: met.update({name: out[0]})
        )
    seen: list[tuple[Tensor, ...]] = []
    model.fuse.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    model.propagate["vision"].register_forward_pre_hook(lambda _, args: seen.append(args[:1]))
    model(*inputs(40))
    assert torch.equal(seen[0][0], met["audio"]) and torch.equal(seen[0][1], met["vision"])
    assert torch.equal(seen[1][0], met["vision"])


def test_activation_asks_the_joint_classifier_and_both_modalities() -> None:
    joint, vision, audio = (torch.randn(1, 2, 3) for _ in range(3))
    both = torch.tensor([[True, True, False]])
    found = CLASP._activation({"vision": vision, "audio": audio}, joint, both)
    own = (vision.sigmoid() * audio.sigmoid()).sqrt()
    assert torch.allclose(found[..., :2], (joint.sigmoid() * own).sqrt()[..., :2])
    assert found[..., 2].eq(0).all()


def test_a_videos_score_is_that_of_the_activation() -> None:
    found = make()(*inputs(40, 17))
    assert torch.equal(found.video, top_mean(found.activation, found.both))
    assert torch.equal(found.video, found.pooled["joint"])


def test_the_temporal_gate_of_a_modality_is_the_others_and_closes_nothing() -> None:
    model = make(temporal_gate=True)
    met: dict[str, Tensor] = {}
    model.cross["vision"].register_forward_hook(lambda _, args, out: met.update(before=out[0]))
    model.propagate["vision"].register_forward_pre_hook(lambda _, args: met.update(after=args[0]))
    data = inputs(30)
    data[3][0, 20:] = False
    model(*data)
    gain = (met["after"] / met["before"])[0]
    assert torch.allclose(gain, gain[:1].expand_as(gain), atol=1e-3), "one number a step"
    assert gain[0, :20].min() > 1 and gain[0, :20].max() < 2
    assert gain[0, 20:].eq(1).all(), "no sound: nothing to point with"
    torch.nn.init.constant_(model.temporal_gate["audio"].weigh.bias, 50.0)
    model(*data)
    assert torch.allclose(met["after"][..., :20], 2 * met["before"][..., :20])


@pytest.mark.parametrize(
    "switched",
    [{"temporal_gate": True}, {"pooling": "modality"}, {"anchor_bias": "none"}],
    ids=str,
)
def test_what_is_switched_on_leaves_the_other_fresh_weights_alone(
    switched: dict[str, object],
) -> None:
    usual, more = make().state_dict(), make(**switched).state_dict()
    assert all(torch.equal(value, more[name]) for name, value in usual.items())
    added = more.keys() - usual.keys()
    assert bool(added) == ("anchor_bias" not in switched)


def test_the_mean_of_the_streams_has_one_norm_for_both() -> None:
    model = make(stream_fusion="mean")
    one, two = torch.randn(1, 16, 5), torch.randn(1, 16, 5)
    joined = model._join({"vision": one, "audio": two})
    apart = [torch.nn.functional.layer_norm(x.transpose(1, 2), (16,)) for x in (one, two)]
    assert torch.allclose(joined.transpose(1, 2), (apart[0] + apart[1]) / 2, atol=1e-3)


def bias_slopes(precision: torch.dtype) -> dict[str, Tensor]:
    """Gradients of the classifiers' biases where all are sure of what is not there."""
    model = make()
    for layer in (*model.classify.values(), *model.evidence.values(), model.classify_joint):
        torch.nn.init.constant_(layer.bias, 8.0)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found = model(*inputs(20, 20))
    nothing = torch.zeros(0, dtype=torch.long)
    model.loss(found, [nothing, nothing]).total.backward()
    slopes = {name: value.grad for name, value in model.named_parameters() if value.ndim == 1}
    return {
        name: slope
        for name, slope in slopes.items()
        if name.startswith(("classify", "evidence")) and slope is not None
    }


def test_a_confident_mistake_is_corrected_in_half_precision_too() -> None:
    exact, rough = bias_slopes(torch.float32), bias_slopes(torch.bfloat16)
    assert len(exact) == 5
    for name, slope in exact.items():
        assert slope.min() > 0.01
        assert torch.allclose(rough[name], slope, rtol=0.05), name


PAPER = {"vision_dim": 1536, "audio_dim": 1536, "classes": 100}
DEAREST = {"temporal_gate": True, "gate": "channel", "rest": True, "pooling": "modality"}


@pytest.mark.parametrize("variant", [{}, DEAREST], ids=["default", "dearest"])
def test_a_forward_pass_of_training_has_no_more_operations_than_locos(
    variant: dict[str, object],
) -> None:
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model = CLASP(**{**PAPER, **variant}).train()
        mask = torch.ones(2, 256, dtype=torch.bool)
        model(torch.empty(2, 1536, 256), torch.empty(2, 1536, 256), mask, mask)
    assert 0 < counter.get_total_flops() <= 2 * measure_cost(PAPER, steps=256).flops


@pytest.mark.parametrize(
    "value",
    [
        "selection", "anchors", "pooling", "propagation", "gate", "anchor_bias", "stream_fusion",
        "anchor_fusion",
    ],
)  # fmt: skip
def test_unknown_switches_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="'nothing'"):
        make(**{value: "nothing"})


def prediction(activation: Tensor, both: Tensor) -> Activation:
    video = activation.amax(2)
    pooled = dict.fromkeys(("joint", "vision", "audio", "evidence_vision", "evidence_audio"), video)
    return Activation(activation, video, activation.amax(1), both, pooled)


def test_loss_is_the_sum_of_its_terms_by_hand() -> None:
    activation = torch.tensor([[[0.2, 0.6, 0.6], [0.1, 0.1, 0.1]]])
    both = torch.ones(1, 3, dtype=torch.bool)
    model = make(classes=2, smoothness_weight=0.5, sparsity_weight=2.0, evidence_weight=3.0)
    losses = model.loss(prediction(activation, both), [torch.tensor([0, 0])])
    entropy = -(torch.tensor(0.6).log() + torch.tensor(0.9).log()) / 2
    assert losses.classes == pytest.approx(2 * entropy.item())
    assert losses.evidence == pytest.approx(entropy.item())
    assert losses.smoothness == pytest.approx(0.4 / 4)
    assert losses.sparsity == pytest.approx((0.2 + 0.6 + 0.6) / 3)
    expected = losses.classes + 3 * losses.evidence + 0.5 * losses.smoothness + 2 * losses.sparsity
    assert losses.total == pytest.approx(expected.item())


def test_padding_and_videos_without_sound_leave_the_loss_alone() -> None:
    model = make(smoothness_weight=1.0, sparsity_weight=1.0)
    vision, audio, seen, heard = inputs(30, 12)
    labels = [torch.tensor([0]), torch.tensor([1, 2])]
    usual = model.loss(model(vision, audio, seen, heard), labels)
    pad = torch.nn.functional.pad
    padded = model.loss(
        model(pad(vision, (0, 20)), pad(audio, (0, 20)), pad(seen, (0, 20)), pad(heard, (0, 20))),
        labels,
    )
    assert padded.total.item() == pytest.approx(usual.total.item(), rel=1e-5)
    silent = [torch.cat([x, x[:1]]) for x in (vision, audio, seen, heard)]
    silent[3][2] = False
    more = model.loss(model(*silent), [*labels, torch.tensor([0])])
    assert more.unlabelled == 1
    assert more.classes.item() == pytest.approx(usual.classes.item(), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_videos_of_one_or_two_steps_and_without_labels_train(steps: int) -> None:
    model = make().train()
    losses = model.loss(model(*inputs(steps)), [torch.zeros(0, dtype=torch.long)])
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.smoothness.item() == 0 if steps == 1 else losses.smoothness.item() >= 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def planted(videos: int, *, seed: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Videos with one audible and visible event each, of known place, and decoys in one modality.

    Returns the inputs, the classes of each video, and the truth (B, K, T).
    """
    generator = torch.Generator().manual_seed(seed)
    steps, classes = 48, 3
    vision = 0.5 * torch.randn(videos, 6, steps, generator=generator)
    audio = 0.5 * torch.randn(videos, 5, steps, generator=generator)
    truth = torch.zeros(videos, classes, steps)
    labels = []
    for video in range(videos):
        event, seen, heard = torch.randperm(classes, generator=generator).tolist()
        start, other, third = (torch.randperm(3, generator=generator) * 16).tolist()
        place = slice(start + 2, start + 14)
        vision[video, event, place] += 3
        audio[video, event, place] += 3
        vision[video, seen, other + 2 : other + 14] += 3
        audio[video, heard, third + 2 : third + 14] += 3
        truth[video, event, place] = 1
        labels.append(torch.tensor([event]))
    mask = torch.ones(videos, steps, dtype=torch.bool)
    return [vision, audio, mask, mask], labels, truth


def test_from_classes_of_videos_alone_it_learns_where_the_events_are() -> None:
    model = make(channels=24, drop_path=0.0).train()
    data, labels, _ = planted(64, seed=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        optimiser.zero_grad()
        model.loss(model(*data), labels).total.backward()
        optimiser.step()
    test, _, truth = planted(32, seed=2)
    found = model.eval()(*test).activation.detach()
    event_class = truth.amax(2, keepdim=True)

    def mean(where: Tensor) -> float:
        return float((found * where).sum() / where.sum())

    inside = mean(truth)
    assert inside > 1.5 * mean(event_class * (1 - truth)), "where it is, against where it is not"
    assert inside > 3 * mean((1 - event_class).expand_as(found)), "against the decoys' classes"
