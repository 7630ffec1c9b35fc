"""Probability of a text for an embedding, from encoders that were trained on pairs of both.

Shapes: T steps, D width of the shared space, C labels, M texts that compete with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TextSpace:
    """Texts in the space of one encoder pair.

    Attributes:
        labels: (C, D) texts that are asked for, of unit length.
        others: (M, D) texts that compete with them, of unit length.
        competes: (C, M) which of these stand against which label.
        scale: By what the pair multiplies a cosine: its inverse temperature, as trained.

    Raises:
        ValueError: The shapes do not fit, or nothing stands against some label.
    """

    labels: FloatArray
    others: FloatArray
    competes: NDArray[np.bool_]
    scale: float

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape[1:] != self.others.shape[1:]:
            raise ValueError(f"texts of shapes {self.labels.shape} and {self.others.shape}")
        if self.competes.shape != (len(self.labels), len(self.others)):
            raise ValueError(f"competes has shape {self.competes.shape}")
        if not self.competes.any(axis=1).all():
            raise ValueError("nothing stands against some label")


def text_probabilities(
    embeddings: NDArray[np.floating[Any]], space: TextSpace, *, prior: float
) -> FloatArray:
    """Probability of each label at each step, whatever the other labels are.

    A contrastive loss makes exp(scale * cosine) proportional to p(x | text) / p(x). Each label is
    weighed against the even mixture of the texts that compete with it:

        log ratio = scale * cos(x, label) - log mean_m exp(scale * cos(x, other_m))
        probability = sigmoid(logit(prior) + log ratio)

    That is a softmax over the label and its competitors in which the label has the weight
    ``prior`` and each competitor an equal share of the rest. Whatever is common to all texts (the
    distance between the modalities, the bias of a sigmoid loss) cancels. Labels do not compete
    with each other: two may be there at once, and one more changes nothing for the rest.

    Args:
        embeddings: (T, D) of any length; rows of zeros, which say nothing, give the prior.
        space: The texts.
        prior: Probability of a label before anything is heard or seen, in (0, 1).

    Returns:
        (T, C).

    Sources: Radford et al., Learning transferable visual models from natural language supervision,
    2021 (softmax of scaled cosines); van den Oord et al., Representation learning with contrastive
    predictive coding, 2018 (the ratio that the loss estimates); Zhai et al., Sigmoid loss for
    language image pre-training, 2023.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    wanted = space.scale * (x @ space.labels.T.astype(np.float64))
    others = space.scale * (x @ space.others.T.astype(np.float64))
    # In double precision no cosine at a scale of hundreds underflows below the row's best.
    best = others.max(axis=1, keepdims=True)
    against = np.exp(others - best) @ space.competes.T / space.competes.sum(axis=1)
    z = np.log(prior) - np.log1p(-prior) + wanted - (best + np.log(against))
    return np.exp(-np.logaddexp(0.0, -z)).astype(np.float32)
