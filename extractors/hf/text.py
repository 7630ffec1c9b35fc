"""The text towers of CLIP, SigLIP and CLAP; see `extractors.text`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.device import select_device
from extractors.hf.families import TextKind, TextTower
from extractors.hf.files import ModelFolder
from extractors.hf.hub import VOCABULARIES
from extractors.hf.model import FORM, HfModel, find_hf_model, is_hf, text_tower
from extractors.hf.net import import_transformers, load_net, load_part
from extractors.hf.state import open_state
from extractors.runner import Runner
from extractors.spec import Modality
from extractors.weights.network import network
from pipeline.core.errors import EnvironmentFault, UsageError


class HfTextEncoder:
    """A text tower and its tokenizer; see `extractors.text.TextEncoder`.

    Args:
        net: The loaded tower.
        tower: What it is.
        tokenizer: Of ``transformers``.
        length: Tokens that a text may have.
        dim: Width of the space.
        scale: Factor of the cosine.
        bias: What is added to it; None for nothing.
        device: Where the net is.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    def __init__(
        self,
        net: nn.Module,
        tower: TextTower,
        tokenizer: Any,
        *,
        length: int,
        dim: int,
        scale: float,
        bias: float | None,
        device: torch.device,
        threads: int | None = None,
    ) -> None:
        self.kind: TextKind = tower.kind
        self.logit_scale = scale
        self.logit_bias = bias
        self._net = net
        self._tower = tower
        self._tokenizer = tokenizer
        self._length = length
        self._dim = dim
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=8, device_chunk=256
        )

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) embeddings of unit length; see `extractors.text.TextEncoder`."""
        if not texts:
            return np.zeros((0, self._dim), np.float32)
        padded = self._tower.padded
        tokens = self._tokenizer(
            [text.lower() for text in texts] if padded else list(texts),
            padding="max_length" if padded else True,
            truncation=True,
            max_length=self._length,
            return_attention_mask=True,
            return_tensors="np",
        )
        pairs = np.stack([tokens["input_ids"], tokens["attention_mask"]], axis=1)
        (embeddings,) = self._run(pairs.astype(np.int64))
        return embeddings

    def _forward(self, pairs: Tensor) -> tuple[Tensor, ...]:
        """(n, 2, L) ids and masks to (n, D)."""
        mask = None if self._tower.padded else pairs[:, 1]
        answer = self._net(input_ids=pairs[:, 0], attention_mask=mask)
        return (F.normalize(getattr(answer, self._tower.output), dim=-1),)


def load_hf_text(
    backbone: str,
    *,
    which: Modality,
    device: str = "auto",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> HfTextEncoder:
    """Load a text tower; see `extractors.text.load_text_encoder`."""
    if not is_hf(backbone):
        raise UsageError(
            f"backbone {backbone!r} has no text encoder", hint=f"take one of the form {FORM}"
        )
    chosen = select_device(device)
    folder = None if weights_dir is None else Path(weights_dir)
    with network(offline=offline):
        model = find_hf_model(backbone, which, weights_dir=folder)
    return _load(model, text_tower(model, backbone), chosen, threads)


def _load(
    model: HfModel, tower: TextTower, device: torch.device, threads: int | None
) -> HfTextEncoder:
    folder = model.folder
    transformers = import_transformers()
    if not any((folder.path / file).is_file() for file in VOCABULARIES):
        # The library would take an empty vocabulary, in which all texts are the same.
        raise EnvironmentFault(
            f"the tokenizer of {folder.path} is missing: none of {', '.join(VOCABULARIES)}",
            hint="save the model's processor there, too, with its save_pretrained()",
        )
    load = transformers.AutoTokenizer.from_pretrained
    tokenizer = load_part(folder, "tokenizer", load)
    net = load_net(folder, tower.net, tower="text_config", unused=(), device=device)
    config: Any = net.config
    positions = getattr(config, "max_position_embeddings", tower.positions) - tower.reserved
    return HfTextEncoder(
        net,
        tower,
        tokenizer,
        length=min(positions, tokenizer.model_max_length),
        dim=model.spec.dim,
        scale=float(np.exp(_number(folder, tower.scale))),
        bias=_number(folder, tower.bias) if tower.bias else None,
        device=device,
        threads=threads,
    )


def _number(folder: ModelFolder, name: str) -> float:
    """A tensor of one number out of a model's weights."""
    with open_state(folder) as state:
        if name in state and state[name].numel() == 1:
            return float(state[name].float().reshape(()))
    raise EnvironmentFault(
        f"the weights in {folder.path} lack {name}: they are those of one tower alone",
        hint="name the whole model, with both towers",
    )
