"""Discrepancy and agreement of two modalities, against their definitions written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.evidence import MEASURES, agreement_score, bernoulli_divergence, class_agreement

probability = st.floats(0.001, 0.999)


def kullback_leibler(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def jensen_shannon(p: list[float], q: list[float]) -> float:
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kullback_leibler(p, m) + kullback_leibler(q, m)) / 2 / math.log(2)


def logits(*steps: list[float]) -> torch.Tensor:
    """(1, K, T) logits of the probabilities of each step."""
    p = torch.tensor(steps, dtype=torch.float64).T[None]
    return (p / (1 - p)).log().float()


@given(probability, probability)
def test_divergence_is_the_jensen_shannon_divergence_in_bits(p: float, q: float) -> None:
    found = bernoulli_divergence(torch.tensor(p), torch.tensor(q)).item()
    assert found == pytest.approx(jensen_shannon([p, 1 - p], [q, 1 - q]), abs=2e-5)
    assert found == bernoulli_divergence(torch.tensor(q), torch.tensor(p)).item()


def test_the_default_score_is_the_best_class_agreement_of_a_step() -> None:
    heard, seen = logits([0.9, 0.2], [0.1, 0.8]), logits([0.9, 0.9], [0.1, 0.1])
    found = agreement_score(heard, seen)
    expected = class_agreement(heard.sigmoid(), seen.sigmoid()).amax(1)
    assert torch.equal(found, expected)
    assert found[0, 0] == pytest.approx(0.9, abs=1e-3)


def test_scores_in_half_precision_agree_as_in_single() -> None:
    """Half precision has nothing between 0.9995 and 1, so that a floor below it is no floor."""
    sure, unsure = torch.tensor([0.0, 1.0, 1.0]).half(), torch.tensor([0.0, 1.0, 0.25]).half()
    expected = class_agreement(sure.float(), unsure.float())
    found = class_agreement(sure, unsure)
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_two_events_at_once_are_punished_by_the_softmax_form_only() -> None:
    """clasp.md 0.2: a distribution cannot be sure of two classes; where the two modalities weigh
    them differently, it calls that a discrepancy."""
    heard, seen = logits([0.99, 0.8]), logits([0.8, 0.99])
    assert agreement_score(heard, seen) > agreement_score(heard, seen, measure="softmax")


@pytest.mark.parametrize("measure", MEASURES)
def test_background_scores_lower_than_an_event_by_every_measure(measure: str) -> None:
    quiet = agreement_score(logits([0.01, 0.01]), logits([0.01, 0.01]), measure=measure)
    event = agreement_score(logits([0.9, 0.01]), logits([0.9, 0.01]), measure=measure)
    single = agreement_score(logits([0.9, 0.01]), logits([0.01, 0.01]), measure=measure)
    assert quiet < 0.02 and event > 0.7
    assert single < event


def test_each_measure_is_what_its_name_says() -> None:
    heard, seen = [0.7, 0.1, 0.2], [0.4, 0.3, 0.1]
    best = max(math.sqrt(a * b) for a, b in zip(heard, seen, strict=True))
    l1 = sum(abs(a - b) for a, b in zip(heard, seen, strict=True)) / (sum(heard) + sum(seen))
    dot = sum(a * b for a, b in zip(heard, seen, strict=True))
    cosine = dot / math.hypot(*heard) / math.hypot(*seen)

    def softmax(p: list[float]) -> list[float]:
        weights = [a / (1 - a) for a in p]  # exp of the logit
        return [w / sum(weights) for w in weights]

    apart = [jensen_shannon([a, 1 - a], [b, 1 - b]) for a, b in zip(heard, seen, strict=True)]
    classes = [math.sqrt(a * b) * (1 - d) for a, b, d in zip(heard, seen, apart, strict=True)]

    expected = {
        "bernoulli": max(classes),
        "l1": best * (1 - l1),
        "cosine": best * cosine,
        "softmax": best * (1 - jensen_shannon(softmax(heard), softmax(seen))),
        "product": best**2,
        "confidence": best,
    }
    assert expected.keys() == set(MEASURES)
    for measure, value in expected.items():
        found = agreement_score(logits(heard), logits(seen), measure=measure)
        assert found.item() == pytest.approx(value, abs=1e-5), measure


@pytest.mark.parametrize("measure", MEASURES)
def test_gradient_passes_where_it_is_asked_for_and_has_a_bound(measure: str) -> None:
    heard = torch.tensor([[[-3.0, 2.0, -90.0], [1.0, -2.0, -90.0]]]).requires_grad_()
    seen = torch.tensor([[[-2.0, 3.0, -95.0], [2.0, -1.0, 60.0]]])
    score = agreement_score(heard, seen, measure=measure, differentiable=True)
    assert torch.allclose(score, agreement_score(heard, seen, measure=measure), atol=1e-6)
    (slope,) = torch.autograd.grad(score.sum(), heard)
    assert slope.abs().max() < 1 and slope[..., :2].abs().amax(1).min() > 1e-3


def test_no_gradient_passes_and_an_unknown_measure_is_refused() -> None:
    heard = logits([0.5, 0.5]).requires_grad_()
    assert not agreement_score(heard, heard).requires_grad
    with pytest.raises(ValueError, match="unknown measure 'jsd'"):
        agreement_score(heard, heard, measure="jsd")
