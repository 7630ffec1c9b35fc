"""Checkpoints: a safetensors file of weights and a JSON card that says what they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.loco import LoCo
from pipeline.core.atomic import atomic_path, write_json
from pipeline.core.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Card:
    """What a checkpoint is.

    Attributes:
        architecture: Arguments of `LoCo`.
        classes: Names of the K classes in order.
        backbone: Description of the backbone whose features it was trained on.
        digest: That backbone's digest.
        metrics: Measured on validation, by name.
        data: Annotation file, splits and counts.
        licence: Of the weights.
        command: The command that made it.
        format: Version of this card.
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


def card_path(path: Path) -> Path:
    """The card that belongs to a weights file."""
    return path.with_suffix(".json")


def save_checkpoint(path: Path, state: dict[str, Tensor], card: Card) -> None:
    """Write card and weights, each atomically; the weights last, so that they never lack a card."""
    write_json(card_path(path), asdict(card))
    with atomic_path(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary
        )


def load_checkpoint(path: Path) -> tuple[LoCo, Card]:
    """A model in eval mode on the CPU, and its card.

    Raises:
        CheckpointError: A file is missing or damaged, or weights and card do not fit each other.
    """
    card = read_card(path)
    try:
        model = LoCo(**card.architecture)
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {error}", hint="copy it again or train again"
        ) from error
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} does not fit its card: {reason}") from error
    return model.eval(), card


def read_card(path: Path) -> Card:
    """The card beside a weights file.

    Raises:
        CheckpointError: It is missing or no card.
    """
    place = card_path(path)
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
        card = Card(**{**value, "classes": tuple(value["classes"])})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{place} does not exist", hint="a checkpoint is a .safetensors and a .json file"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{place} is not the card of a checkpoint: {error}") from error
    if card.format != FORMAT:
        raise CheckpointError(f"{place} has format {card.format}, this version reads {FORMAT}")
    return card
