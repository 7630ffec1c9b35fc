"""Checkpoints: one safetensors file of weights, and a JSON card that says what they are.

The card travels twice: in the header of the weights file, so that weights never lack theirs even
when a writer is killed between two files, and beside it as JSON for people and other programs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.build import Network, build_network
from model.loco import LoCo
from pipeline.core.atomic import atomic_path, write_json
from pipeline.core.errors import CheckpointError, ConfigError

FORMAT = 1
BINDING = (
    "method",
    "architecture",
    "classes",
    "digest",
)  # what both copies of a card must agree on
DEPTHS = ("unimodal_blocks", "decoder_blocks", "embedding_layers", "levels")  # of any network
LEAST_DEPTH, LEAST_VALUES = 64, 50_000_000  # below both, a network is built in any case


@dataclass(frozen=True, slots=True)
class Card:
    """What a checkpoint is.

    Attributes:
        architecture: Arguments of the network's class.
        classes: Names of the K classes in order.
        backbone: Description of the backbone whose features it was trained on, its grid included.
        digest: That backbone's digest.
        metrics: Measured on validation, by name.
        data: Annotation file, splits and counts.
        licence: Of the weights.
        command: The command that made it, ``--set`` included; empty where there was none. Paths in
            it are relative to the folder in which it was given.
        format: Version of this card.
        method: Name of the network in `model.build.METHODS`.
    """

    architecture: dict[str, Any]
    classes: tuple[str, ...]
    backbone: dict[str, Any]
    digest: str
    metrics: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    command: str = ""
    format: int = FORMAT
    method: str = "loco"

    def check_features(self, digest: str) -> None:
        """Refuse features of another backbone.

        Args:
            digest: Of the features.

        Raises:
            CheckpointError: It is not the one that the model was trained on.
        """
        if digest != self.digest:
            raise CheckpointError(
                f"the model was trained on features of backbone {self.backbone.get('name')!r} "
                f"(digest {self.digest}), these have digest {digest}",
                hint="extract the features again with the model's backbone",
            )

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse to be measured on classes that the model cannot find.

        Args:
            classes: Of the annotations.

        Raises:
            CheckpointError: One of them is not among the model's.
        """
        known = set(self.classes)
        unknown = [name for name in classes if name not in known]
        if unknown:
            listed = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise CheckpointError(
                f"the model was trained on {len(known)} classes and knows nothing of "
                f"{len(unknown)} of the {len(classes)} annotated ones: {listed}",
                hint="train again on these annotations, or measure on those it was trained on",
            )


def card_path(path: Path) -> Path:
    """The card beside a weights file."""
    return path.with_suffix(".json")


def save_checkpoint(path: Path, state: dict[str, Tensor], card: Card) -> None:
    """Write weights with their card inside, then the card beside them, each atomically.

    Args:
        path: The ``.safetensors`` file.
        state: Of the network, buffers included: LoCo's running normaliser is one.
        card: What it is.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    text = json.dumps(asdict(card), allow_nan=False)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"card": text})
    write_json(card_path(path), asdict(card))


def load_network(path: Path) -> tuple[Network, Card]:
    """A network in eval mode on the CPU, and its card.

    Raises:
        CheckpointError: The file is missing or damaged, or weights and card do not fit each other.
    """
    card = read_card(path)
    try:
        _refuse_far_larger(path, card)
        model = build_network(card.method, **card.architecture)
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    except (RuntimeError, ConfigError) as error:
        reason = str(error).splitlines()
        raise CheckpointError(
            f"checkpoint {path} does not fit its card: {' '.join(reason[:2])}",
            hint="it was made by another version of this program, or by another one",
        ) from error
    return model.eval(), card


def load_checkpoint(path: Path) -> tuple[LoCo, Card]:
    """As `load_network`, where only LoCo will do.

    Raises:
        CheckpointError: As `load_network`; or the checkpoint is of another method.
    """
    model, card = load_network(path)
    if not isinstance(model, LoCo):
        raise CheckpointError(
            f"checkpoint {path} is of the method {card.method!r}", hint="give one of LoCo"
        )
    return model, card


def read_card(path: Path) -> Card:
    """The card of a checkpoint, without loading its weights.

    Raises:
        CheckpointError: The file is missing, damaged, or not a checkpoint of this program; or the
            card beside it is of another checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path} does not exist", hint="give the path of a .safetensors file"
        )
    try:
        with safe_open(path, framework="pt") as weights:
            text = (weights.metadata() or {}).get("card")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    if text is None:
        raise CheckpointError(f"{path} holds weights, but not of this program: it has no card")
    card = _parse(text, path)
    beside = card_path(path)
    if beside.exists():
        try:
            other = _parse(beside.read_text(encoding="utf-8"), beside)
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"the card {beside} cannot be read: {error}",
                hint="delete it, the weights carry a card of their own",
            ) from error
        for name in BINDING:
            if getattr(other, name) != getattr(card, name):
                raise CheckpointError(
                    f"{beside} and {path} disagree on {name}: they are of two checkpoints",
                    hint=f"delete {beside}, the weights carry a card of their own",
                )
    return card


def _refuse_far_larger(path: Path, card: Card) -> None:
    """Refuse the card of a network that would fill the memory before it is found not to fit.

    It is built without memory; and the deeper ones not even so, which would take hours.

    Raises:
        ConfigError: The network has many times as many values as the file, or more blocks than the
            file has tensors.
    """
    with safe_open(path, framework="pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    for name in DEPTHS:
        depth = card.architecture.get(name)
        if isinstance(depth, int) and depth > max(len(shapes), LEAST_DEPTH):
            raise ConfigError(f"{name}={depth:,} where the file has {len(shapes)} tensors")
    with torch.device("meta"):
        empty = build_network(card.method, **card.architecture)
    needed = sum(value.numel() for value in empty.state_dict().values())
    held = sum(map(math.prod, shapes))
    if needed > 2 * held + LEAST_VALUES:
        raise ConfigError(f"the network has {needed:,} values, the file {held:,}")


def _parse(text: str, source: Path) -> Card:
    try:
        value = json.loads(text)
        card = Card(**{**value, "classes": tuple(value["classes"])})
        named = card.architecture.get("classes")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{source} does not hold the card of a checkpoint: {error}"
        ) from error
    if card.format != FORMAT:
        raise CheckpointError(
            f"{source} has a card of format {card.format}, this version reads {FORMAT}",
            hint="update the program",
        )
    if len(card.classes) != named:
        raise CheckpointError(
            f"{source} names {len(card.classes)} classes for a network of {named}"
        )
    return card


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged: {error}", hint="copy it again or train again"
    )
