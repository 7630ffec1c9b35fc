"""Probabilities of texts, against the softmax that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.zero_shot import TextSpace, text_probabilities

D = 8


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def space(
    rng: np.random.Generator, *, labels: int = 3, others: int = 5, scale: float = 20.0
) -> TextSpace:
    return TextSpace(
        unit(rng.normal(size=(labels, D))),
        unit(rng.normal(size=(others, D))),
        np.ones((labels, others), bool),
        scale,
    )


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.9), st.floats(1.0, 150.0))
def test_it_is_the_softmax_over_label_and_competitors_with_their_weights(
    seed: int, prior: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    texts = space(rng, scale=scale)
    x = unit(rng.normal(size=(4, D)))
    found = text_probabilities(x, texts, prior=prior)
    for step in range(4):
        for label in range(3):
            vectors = np.concatenate([texts.labels[label : label + 1], texts.others]).astype(float)
            logits = scale * vectors @ x[step].astype(float)
            weights = np.array([prior, *([(1 - prior) / 5] * 5)]) * np.exp(logits - logits.max())
            assert found[step, label] == pytest.approx(weights[0] / weights.sum(), abs=1e-5)


def test_one_more_label_changes_nothing_for_the_others() -> None:
    rng = np.random.default_rng(0)
    texts, x = space(rng), rng.normal(size=(6, D))
    more = TextSpace(
        np.concatenate([unit(rng.normal(size=(1, D))), texts.labels]),
        texts.others,
        np.ones((4, 5), bool),
        texts.scale,
    )
    both = [text_probabilities(x, some, prior=0.1) for some in (texts, more)]
    np.testing.assert_allclose(both[0], both[1][:, 1:], atol=1e-6)


def test_what_is_common_to_all_texts_cancels() -> None:
    """In such spaces the modalities lie apart: every text shares a direction."""
    rng = np.random.default_rng(1)
    texts, x = space(rng), unit(rng.normal(size=(5, D)))
    apart = np.concatenate([0.6 * x, np.full((5, 1), 0.8)], axis=1)  # of unit length again
    shared = TextSpace(
        np.concatenate([texts.labels, np.full((3, 1), 0.7)], axis=1),
        np.concatenate([texts.others, np.full((5, 1), 0.7)], axis=1),
        texts.competes,
        texts.scale / 0.6,
    )
    np.testing.assert_allclose(
        text_probabilities(apart, shared, prior=0.1),
        text_probabilities(x, texts, prior=0.1),
        atol=1e-5,
    )


def test_an_embedding_like_every_text_says_no_more_than_the_prior() -> None:
    same = np.ones((1, D)) / np.sqrt(D)
    texts = TextSpace(
        same.astype(np.float32), np.repeat(same, 7, 0).astype(np.float32), np.ones((1, 7), bool), 99
    )
    assert text_probabilities(same, texts, prior=0.05)[0, 0] == pytest.approx(0.05, abs=1e-6)


def test_a_row_of_zeros_gives_the_prior() -> None:
    found = text_probabilities(np.zeros((2, D)), space(np.random.default_rng(2)), prior=0.2)
    np.testing.assert_allclose(found, 0.2, atol=1e-6)


def test_a_label_with_an_equal_among_many_competitors_can_still_be_likely() -> None:
    """A synonym among n competitors costs the label the factor n at most, not half its chance."""
    label = np.eye(D)[:1]
    others = np.concatenate([label, -np.ones((99, 1)) @ label])
    texts = TextSpace(
        label.astype(np.float32), others.astype(np.float32), np.ones((1, 100), bool), 50
    )
    odds = 0.05 / 0.95 * 100
    found = text_probabilities(label, texts, prior=0.05)[0, 0]
    assert found == pytest.approx(odds / (1 + odds), abs=1e-4)


def test_extreme_scales_stay_finite() -> None:
    label = np.eye(D, dtype=np.float32)[:1]
    others = np.stack([label[0], -label[0]])
    competes = np.array([[False, True]])  # the only competitor lies 2 * scale below the row's best
    texts = TextSpace(label, others, competes, 150.0)
    assert text_probabilities(label, texts, prior=0.05)[0, 0] == pytest.approx(1.0)
    assert text_probabilities(-label, texts, prior=0.05)[0, 0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "others", "competes"),
    [
        (np.zeros((2, 3)), np.zeros((4, 5)), np.ones((2, 4), bool)),
        (np.zeros((2, 3)), np.zeros((4, 3)), np.ones((4, 2), bool)),
        (np.zeros((2, 3)), np.zeros((4, 3)), np.zeros((2, 4), bool)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    labels: np.ndarray, others: np.ndarray, competes: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"shape|stands against"):
        TextSpace(labels.astype(np.float32), others.astype(np.float32), competes, 1.0)
