"""Texts in the space of an encoder's features: what open vocabulary needs.

Encoders that were trained with texts (CLIP and SigLIP for pictures, CLAP for sound) have a second
tower that maps a text into the same space. The features in a store and the texts of
`TextEncoder.encode` are compared by their cosine:

* Picture features are the projected embeddings of single frames as the model answers them, NOT of
  unit length, averaged over the frames of each window. Divide by the length of each row first.
* Sound features of CLAP have unit length already (`EncoderSpec.normalised` says so).
* Texts have unit length.

So for features f (T, D) and texts t (K, D) the model's own score is
``logit_scale * (f / |f|) @ t.T`` and, with ``kind="sigmoid"``, ``+ logit_bias``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.hf.families import TextKind
from extractors.spec import Modality

__all__ = ["TextEncoder", "TextKind", "load_text_encoder"]


class TextEncoder(Protocol):
    """The text tower of a joint space.

    Attributes:
        kind: How the model was trained to read its scores. ``softmax``: they compare texts with
            each other (CLIP, CLAP); ``sigmoid``: each stands for itself (SigLIP).
        logit_scale: Factor of the cosine, already exponentiated (100 for CLIP).
        logit_bias: What is added to it; None for models that have none.
    """

    kind: TextKind
    logit_scale: float
    logit_bias: float | None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) embeddings of unit length of N texts; texts that are too long are cut off."""
        ...


def load_text_encoder(
    backbone: str,
    *,
    which: Modality,
    device: str = "auto",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> TextEncoder:
    """Load the text tower that belongs to one of a backbone's two encoders.

    Args:
        backbone: A name ``hf:<vision>+<audio>``.
        which: ``vision`` for texts in the space of the picture features, ``audio`` for those in
            the space of the sound features.
        device: ``auto``, or a torch device name.
        threads: CPU cores to encode on; None takes torch's number of threads.
        weights_dir: Folder in which models are looked for first.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.

    Raises:
        UsageError: The backbone is no ``hf:`` one, or its encoder has no text tower.
        EnvironmentFault: The model, its tokenizer, the device or the package ``transformers`` is
            missing on this machine.
    """
    from extractors.hf.text import load_hf_text  # torch is loaded when it is needed

    return load_hf_text(
        backbone,
        which=which,
        device=device,
        threads=threads,
        weights_dir=weights_dir,
        offline=offline,
    )
