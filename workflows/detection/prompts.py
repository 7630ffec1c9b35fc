"""Free text as classes: what users may ask for, and the sentences that encoders are given.

Shapes: N names, D width of the text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from extractors.text import TextEncoder
from pipeline.core.errors import UsageError

MAX_LABELS = 500
MAX_LETTERS = 100  # text encoders cut what is much longer than a caption
STEM_LETTERS = 4  # "chainsaw" begins "chainsawing"; "cat" must not begin "cattle"

# One name is put into several sentences, whose embeddings are averaged: what the authors of CLIP
# do, and they gain from it. "This is a sound of" is LAION-CLAP's own sentence. Names of events
# ("dog barking") stand without an article.
PICTURE_SENTENCES = ("a photo of {}.", "a video of {}.", "a scene of {}.")
SOUND_SENTENCES = ("This is a sound of {}.", "The sound of {}.", "{}")

# What there is when no event is. Without these, the nearest event wins over an empty room.
BACKGROUND_PICTURES = (
    "an empty room",
    "a plain wall",
    "a landscape",
    "an empty street",
    "a person standing still",
    "a black picture",
    "a blurred picture",
    "text on a plain background",
)
BACKGROUND_SOUNDS = (
    "silence",
    "quiet background noise",
    "indistinct noise",
    "room tone",
    "a low hum",
    "static",
    "a microphone being handled",
    "background music",
)

_SMALL_WORDS = frozenset({"a", "an", "the", "of", "on", "in", "with", "and", "to", "at", "by"})


def free_labels(wanted: Sequence[str]) -> tuple[str, ...]:
    """Labels as they are reported: trimmed, each once whatever its case, in the order given.

    Raises:
        UsageError: No label, an empty one, one too long, or too many.
    """
    labels: dict[str, str] = {}
    for text in wanted:
        label = " ".join(text.split())
        if not re.search(r"\w", label):
            raise UsageError(
                f"label {text!r} names nothing",
                hint='write what is seen and heard, for example --labels "dog barking, chainsaw"',
            )
        if len(label) > MAX_LETTERS:
            raise UsageError(
                f"label {label[:40]!r}... has {len(label)} letters, more than {MAX_LETTERS}",
                hint="use a few words; labels are separated by commas",
            )
        labels.setdefault(label.casefold(), label)
    if not labels:
        raise UsageError("no label to look for is left", hint="name at least one")
    if len(labels) > MAX_LABELS:
        raise UsageError(
            f"{len(labels)} labels are more than {MAX_LABELS}", hint="look for them in several runs"
        )
    return tuple(labels.values())


def name_embeddings(
    encoder: TextEncoder, names: Sequence[str], sentences: Sequence[str]
) -> NDArray[np.float32]:
    """Names in the encoder's space: the mean over several sentences, of unit length.

    Args:
        encoder: Its embeddings have unit length.
        names: What is put into the sentences.
        sentences: Each with one ``{}``.

    Returns:
        (N, D).

    Source: Radford et al., Learning transferable visual models from natural language supervision,
    2021, section 3.1.4: ensembling in the space of the embeddings.
    """
    texts = [sentence.replace("{}", name) for name in names for sentence in sentences]
    each = encoder.encode(texts).reshape(len(names), len(sentences), -1)
    mean = each.astype(np.float64).mean(axis=1)
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def says_the_same(one: str, other: str) -> bool:
    """Whether one name says what the other says in fewer words.

    "chainsaw" and "chainsawing trees", "dog" and "dog barking": such names stand for the same
    sound or sight, so that neither is evidence against the other. "man speaking" and "woman
    speaking" do not.
    """
    few, many = sorted((_words(one), _words(other)), key=len)
    return all(any(_same_word(word, candidate) for candidate in many) for word in few)


@lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    words = re.findall(r"\w+", name.casefold())
    return tuple(word for word in words if word not in _SMALL_WORDS) or tuple(words)


def _same_word(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return short == long or (len(short) >= STEM_LETTERS and long.startswith(short))
