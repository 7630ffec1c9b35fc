"""ONE-PEACE's text branch: numbers of tokens to embeddings in the space of image and audio branch.

Source: Wang et al., "ONE-PEACE", 2023. A text is a row of numbers of the public dictionary (that of
fairseq for GPT-2's byte pairs): lower case, a space in front, at most 70 tokens, then `END`;
shorter ones are filled up with `PADDING`. This program has no tokenizer for it, so no command uses
this branch: numbers are the caller's.

Shapes: N texts, L tokens with the class token first, D width.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.onepeace.layers import (
    NORM_EPS,
    Layer,
    RelativePositions,
    run_layers,
    sequence_buckets,
)
from extractors.onepeace.spec import BASE_WEIGHTS, RELEASED_SIZE, OnePeaceSize, Precision
from extractors.onepeace.weights import load_branch

PADDING, END = 1, 2


class TextAdapter(nn.Module):
    """From numbers to tokens behind a class token, and how far they are from each other."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.buckets = size.text_buckets
        self.tokens = nn.Embedding(size.vocabulary, size.dim)
        self.places = nn.Embedding(size.text_tokens, size.dim)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, size.dim))
        self.positions = RelativePositions(size, 2 * size.text_buckets + 2)

    def forward(self, numbers: Tensor) -> Tensor:
        """(N, L - 1) numbers to (N, L, D)."""
        cls = self.cls_embedding.expand(len(numbers), -1, -1)
        x = torch.cat([cls, self.tokens(numbers)], dim=1)
        return x + self.places.weight[: x.shape[1]]

    def biases(self, length: int, *, layers: int) -> list[Tensor]:
        """Attention bias of every layer, (1, H, L, L) each, for L = ``length`` tokens."""
        return self.positions(sequence_buckets(length - 1, buckets=self.buckets), layers=layers)


class OnePeaceText(nn.Module):
    """The text branch: texts to embeddings."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.adapter = TextAdapter(size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.proj = nn.Linear(size.dim, size.dim)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embeddings of texts.

        Args:
            numbers: (N, L - 1) int64 numbers of the dictionary, `PADDING` behind shorter texts.

        Returns:
            (N, D) of unit length.

        Raises:
            ValueError: A text has more tokens than there are places.
        """
        most = self.adapter.places.num_embeddings - 1
        if numbers.shape[1] > most:
            raise ValueError(f"a text of {numbers.shape[1]} tokens; ONE-PEACE reads {most} at most")
        padding = F.pad(numbers == PADDING, (1, 0))  # the class token stands for no padding
        x = self.adapter(numbers)
        biases = self.adapter.biases(x.shape[1], layers=len(self.layers))
        x = run_layers(self.layers, x, biases, padding)
        return F.normalize(self.proj(self.norm(x[:, 0])).float(), dim=1)


def load_onepeace_text(
    device: torch.device,
    *,
    size: OnePeaceSize = RELEASED_SIZE,
    precision: Precision = "float32",
    weights_dir: str | os.PathLike[str] | None = None,
) -> OnePeaceText:
    """Load the text branch of ``one-peace.pt``.

    Args:
        device: Where it runs.
        size: Its measures.
        precision: Type of its weights and of the arithmetic.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    return load_branch(
        OnePeaceText,
        "text",
        BASE_WEIGHTS,
        size=size,
        device=device,
        precision=precision,
        weights_dir=weights_dir,
    ).eval()
