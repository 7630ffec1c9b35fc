"""Anchors and propagation without learned weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.anchored import AnchorSettings, Stream, anchored_activation
from model.evidence import class_agreement

CLASSES, WIDTH = 3, 8


def streams(steps: int, *, videos: int = 1, seed: int = 0) -> tuple[Stream, Stream]:
    generator = torch.Generator().manual_seed(seed)
    audio, vision = (
        Stream(
            torch.rand(videos, CLASSES, steps, generator=generator),
            torch.randn(videos, WIDTH, steps, generator=generator),
        )
        for _ in range(2)
    )
    return audio, vision


def everywhere(steps: int, *, videos: int = 1) -> Tensor:
    return torch.ones(videos, steps, dtype=torch.bool)


def two_scenes() -> tuple[Stream, Stream]:
    """Steps 0 to 19 look and sound alike, so do 20 to 39; class 0 is clear in 0 to 4 alone."""
    generator = torch.Generator().manual_seed(1)
    scenes = torch.randn(2, WIDTH, generator=generator)
    place = torch.arange(40) // 20
    embeddings = scenes[place].T[None] + 0.05 * torch.randn(1, WIDTH, 40, generator=generator)
    probabilities = torch.full((1, CLASSES, 40), 0.02)
    probabilities[:, 0, :20] = 0.4
    probabilities[:, 0, :5] = 0.95
    return Stream(probabilities, embeddings), Stream(probabilities.clone(), embeddings.clone())


def test_what_resembles_an_anchor_hears_its_word_and_other_steps_do_not() -> None:
    audio, vision = two_scenes()
    before = class_agreement(audio.probabilities, vision.probabilities)
    after, score = anchored_activation(audio, vision, everywhere(40))
    assert torch.allclose(score, before.amax(1))
    assert after[0, 0, 5:20].min() > before[0, 0, 5:20].max() + 0.2, "the same scene"
    assert after[0, 0, 20:].max() < 0.1, "another scene"
    assert after[0, 1:].max() < 0.1, "no class appears that nobody named"


def test_without_propagation_it_is_the_agreement_of_the_nets() -> None:
    audio, vision = streams(20)
    found, score = anchored_activation(
        audio, vision, everywhere(20), AnchorSettings(propagate=False)
    )
    assert torch.equal(found, class_agreement(audio.probabilities, vision.probabilities))
    assert torch.equal(score, found.amax(1))


def test_it_is_the_equation_of_its_docstring() -> None:
    audio, vision = streams(9, seed=3)
    settings = AnchorSettings(scope="global", divisor=3, temperature=0.2)
    found, score = anchored_activation(audio, vision, everywhere(9), settings)
    agreed = class_agreement(audio.probabilities, vision.probabilities)[0]
    anchors = agreed.amax(0).topk(3).indices
    enhanced = []
    for stream in (audio, vision):
        e = stream.embeddings[0] - stream.embeddings[0].mean(1, keepdim=True)
        e = e / e.norm(dim=0)
        rows = []
        for step in range(9):
            cosine = torch.stack([e[:, step] @ e[:, k] for k in anchors])
            w = (cosine / 0.2 + (score[0, anchors] + 1e-3).log()).softmax(0)
            gate = (w @ cosine).clamp(min=0)
            p = stream.probabilities[0, :, step]
            rows.append(p + gate * (agreed[:, anchors] @ w - p))
        enhanced.append(torch.stack(rows, 1))
    torch.testing.assert_close(found[0], class_agreement(*enhanced), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scope", ["both", "global", "local"])
def test_a_video_alone_equals_the_same_video_in_a_padded_batch(scope: str) -> None:
    audio, vision = streams(40, videos=3)
    settings = AnchorSettings(scope=scope)
    lengths = (40, 17, 1)
    valid = torch.arange(40) < torch.tensor(lengths)[:, None]
    together, scores = anchored_activation(audio, vision, valid, settings)
    for video, steps in enumerate(lengths):
        part = (slice(video, video + 1), ..., slice(steps))
        alone, score = anchored_activation(
            Stream(audio.probabilities[part], audio.embeddings[part]),
            Stream(vision.probabilities[part], vision.embeddings[part]),
            valid[part],
            settings,
        )
        torch.testing.assert_close(together[part], alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(scores[part], score)
        assert together[video, :, steps:].eq(0).all()


def test_a_video_without_sound_and_one_of_a_single_step_stay_as_they_are() -> None:
    audio, vision = streams(12)
    nothing, score = anchored_activation(audio, vision, ~everywhere(12))
    assert nothing.eq(0).all() and score.eq(0).all()
    audio, vision = streams(1)
    single, _ = anchored_activation(audio, vision, everywhere(1))
    torch.testing.assert_close(single, class_agreement(audio.probabilities, vision.probabilities))


def test_a_black_and_silent_stretch_hands_on_nothing() -> None:
    """All steps of equal features have no direction from their mean, so no step reads another."""
    audio, vision = streams(10)
    flat = torch.zeros(1, WIDTH, 10)
    found, _ = anchored_activation(
        Stream(audio.probabilities, flat), Stream(vision.probabilities, flat), everywhere(10)
    )
    torch.testing.assert_close(found, class_agreement(audio.probabilities, vision.probabilities))


def test_probabilities_stay_probabilities() -> None:
    for seed in range(5):
        audio, vision = streams(30, videos=2, seed=seed)
        found, _ = anchored_activation(audio, vision, everywhere(30, videos=2))
        assert found.min() >= 0 and found.max() <= 1
