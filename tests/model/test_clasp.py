"""The weakly supervised network: masks, switches, loss, and that it learns to localise."""

import pytest
import torch
from torch import Tensor

from model.clasp import CLASP, SELECTIONS, Activation

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


@pytest.mark.parametrize("value", ["selection", "anchors", "pooling", "propagation", "gate"])
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
