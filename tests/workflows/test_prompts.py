"""What users may ask for, and what the encoders are given."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import UsageError
from tests.fixtures.texts import PlantedTexts, direction
from workflows.detection.prompts import (
    BACKGROUND_PICTURES,
    BACKGROUND_SOUNDS,
    MAX_LABELS,
    PICTURE_SENTENCES,
    SOUND_SENTENCES,
    free_labels,
    name_embeddings,
    says_the_same,
)
from workflows.unav100 import class_names


def test_labels_are_trimmed_and_kept_once_in_the_order_given() -> None:
    wanted = [" dog  barking ", "Chainsaw", "DOG BARKING", "chainsaw", "naïve music, loud"]
    assert free_labels(wanted) == ("dog barking", "Chainsaw", "naïve music, loud")


@pytest.mark.parametrize("bad", ["", "  ", "\t", "---", "..."])
def test_a_label_that_names_nothing_is_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="names nothing"):
        free_labels(["dog barking", bad])


def test_no_label_a_whole_paragraph_and_too_many_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        free_labels([])
    with pytest.raises(UsageError, match="has 239 letters, more than 100"):
        free_labels(["bark " * 48])
    with pytest.raises(UsageError, match=f"501 labels are more than {MAX_LABELS}"):
        free_labels([f"sound {number}" for number in range(MAX_LABELS + 1)])
    assert len(free_labels([f"sound {number}" for number in range(MAX_LABELS)])) == MAX_LABELS


def test_a_name_is_the_mean_of_its_sentences_with_unit_length() -> None:
    encoder = PlantedTexts("vision")
    found = name_embeddings(encoder, ["dog barking", "rain"], PICTURE_SENTENCES)
    assert found.shape == (2, 96) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    alone = np.mean(
        [encoder.encode([s.format("rain")])[0].astype(float) for s in PICTURE_SENTENCES], axis=0
    )
    np.testing.assert_allclose(found[1], alone / np.linalg.norm(alone), atol=1e-6)
    assert found[0] @ direction("dog barking", "vision") > 0.97
    assert "a photo of dog barking." in encoder.seen


def test_a_label_with_braces_stays_as_it_is() -> None:
    encoder = PlantedTexts("audio")
    name_embeddings(encoder, ["a {0} of {}"], SOUND_SENTENCES)
    assert "This is a sound of a {0} of {}." in encoder.seen


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dog barking", "Dog  barking"),
        ("dog", "dog barking"),
        ("chainsaw", "chainsawing trees"),
        ("a dog barking loudly", "dog barking"),
        ("rain", "raining"),
        ("playing guitar", "playing acoustic guitar"),
        ("music", "background music"),
    ],
)
def test_names_that_say_the_same_in_fewer_words_are_known(one: str, other: str) -> None:
    assert says_the_same(one, other) and says_the_same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("man speaking", "woman speaking"),
        ("cat", "cattle mooing"),
        ("playing violin", "playing cello"),
        ("police car siren", "ambulance siren"),
        ("a", "a black picture"),
    ],
)
def test_different_names_compete(one: str, other: str) -> None:
    assert not says_the_same(one, other)


def test_something_stands_against_every_class_of_the_default_list() -> None:
    for background in (BACKGROUND_PICTURES, BACKGROUND_SOUNDS):
        assert len(set(background)) == len(background) >= 5
        for name in class_names():
            assert not any(says_the_same(name, other) for other in background), name


def test_every_sentence_has_one_place_for_the_name() -> None:
    for sentence in (*PICTURE_SENTENCES, *SOUND_SENTENCES):
        assert sentence.count("{}") == 1
