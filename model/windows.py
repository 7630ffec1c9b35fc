"""The windows that dynamic perception chose, seen from outside while a model works.

Shapes: B videos, H heads, n windows of a level, W base window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from model.perception import DynamicPerception, WindowAdaptation
from model.pyramid import Pyramid


@dataclass(frozen=True, slots=True)
class ChosenWindows:
    """Windows of one block of the pyramid for one batch.

    Attributes:
        asks: Stream of the queries, ``vision`` or ``audio``.
        answers: Stream of the keys and values, whose steps the windows lie on.
        part: What is sampled from them: ``both``, or ``key`` or ``value`` where each has its own.
        level: Of the pyramid, 0 the finest.
        size: (B, H, n) length W (1 + s) in steps of the level; a negative one runs backwards.
        offset: (B, H, n) shift o W / 2 of the centre, in steps of the level.
        valid: (B, n) windows that were chosen from at least one step that exists.
        base: W.
    """

    asks: str
    answers: str
    part: str
    level: int
    size: Tensor
    offset: Tensor
    valid: Tensor
    base: int


@contextmanager
def watch_windows(pyramid: Pyramid) -> Iterator[list[ChosenWindows]]:
    """Collect what each block chooses while the context is open; nothing is changed or kept after.

    Args:
        pyramid: Of any fusion; only ``dynamic`` has windows to report.

    Yields:
        A list that every forward pass extends, block by block.
    """
    found: list[ChosenWindows] = []
    with ExitStack() as hooks:
        for name, blocks in (("vision", pyramid.vision), ("audio", pyramid.audio)):
            other = "audio" if name == "vision" else "vision"
            asks, answers = (name, other) if pyramid.residual == "query" else (other, name)
            for level, block in enumerate(blocks):
                mixer = block.mixer
                if not isinstance(mixer, DynamicPerception):
                    continue
                for part, adapt in _adaptations(mixer):
                    watch = _Watch(found, asks=asks, answers=answers, part=part, level=level)
                    hooks.callback(adapt.register_forward_hook(watch).remove)
        yield found


def _adaptations(mixer: DynamicPerception) -> list[tuple[str, WindowAdaptation]]:
    if mixer.adapt_value is None:
        return [("both", mixer.adapt)]
    return [("key", mixer.adapt), ("value", mixer.adapt_value)]


class _Watch:
    """Forward hook of one adaptation."""

    def __init__(
        self, found: list[ChosenWindows], *, asks: str, answers: str, part: str, level: int
    ) -> None:
        self._found = found
        self._place = {"asks": asks, "answers": answers, "part": part, "level": level}

    def __call__(
        self, adapt: nn.Module, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]
    ) -> None:
        assert isinstance(adapt, WindowAdaptation)
        size, offset = (values.detach() for values in output)
        place: dict[str, Any] = self._place
        self._found.append(
            ChosenWindows(
                **place,
                size=adapt.window * (1 + size),
                offset=offset * adapt.window / 2,
                valid=inputs[1].unflatten(1, (-1, adapt.window)).any(2),
                base=adapt.window,
            )
        )
