"""Fields of a recipe's sections, each with what its value must satisfy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Limit:
    """What a value must satisfy besides its type.

    Attributes:
        text: The rule, as it ends the sentence "must be ...".
        holds: Whether a value of the right type obeys it.
    """

    text: str
    holds: Callable[[Any], bool]


def limited(default: Any, limit: Limit) -> Any:
    """A field with a rule of its own."""
    return field(default=default, metadata={"limit": limit})


def positive(default: Any) -> Any:
    """A number above 0."""
    return limited(default, Limit("above 0", lambda value: value > 0))


def at_least(default: Any, low: float) -> Any:
    """A number from ``low`` on."""
    return limited(default, Limit(f"at least {low}", lambda value: value >= low))


def between(default: Any, low: float, high: float) -> Any:
    """A number in [low, high]."""
    return limited(default, Limit(f"in [{low}, {high}]", lambda value: low <= value <= high))


def below(default: Any, low: float, high: float) -> Any:
    """A number in [low, high)."""
    return limited(default, Limit(f"in [{low}, {high})", lambda value: low <= value < high))


def choice(default: str, options: tuple[str, ...]) -> Any:
    """One of some words."""
    return field(default=default, metadata={"options": options})


def named(default: Any = ...) -> Any:
    """Text that must not be empty; required where there is no default."""
    rule = {"limit": Limit("not empty", lambda value: bool(str(value).strip()))}
    return field(metadata=rule) if default is ... else field(default=default, metadata=rule)


def rising_shares(value: tuple[float, ...]) -> bool:
    """Whether the numbers lie in (0, 1] and rise."""
    return bool(value) and all(0 < v <= 1 for v in value) and list(value) == sorted(set(value))
