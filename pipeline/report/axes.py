"""Axes of the charts: round ticks and the way from values to places in the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.markup import Markup, join, tag

NICE = (1, 2, 2.5, 5, 10)
MINUS = "\u2212"


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round values from ``low`` to ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in NICE if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number for a tick or a cell, three digits."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return text.replace("-", MINUS)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)


@dataclass(frozen=True, slots=True)
class Scale:
    """From a range of values to a range of places.

    Attributes:
        low: First value.
        high: Last value, not equal to ``low``.
        start: Place of ``low``.
        end: Place of ``high``.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def padded_range(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """A range that holds all values with a little air; ``zero`` makes it start there."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if zero and low >= 0:
        low = 0.0
    if high - low < 1e-9 * max(1.0, abs(high)):
        air = 0.5 * abs(high) or 0.5
        return low - (0 if zero and low == 0 else air), high + air
    air = 0.06 * (high - low)
    return (low if zero and low == 0 else low - air), high + air


def frame(
    x: Scale,
    y: Scale,
    *,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str = "",
    y_label: str = "",
) -> Markup:
    """Grid lines, tick labels and names of both axes; ``y`` runs upwards."""
    parts = []
    for value in y_ticks:
        place = y(value)
        parts.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=place, y2=place))
        parts.append(_text(short(value), x.start - 5, place + 3.5, anchor="end"))
    for value in x_ticks:
        place = x(value)
        parts.append(tag("line", class_="tick", x1=place, x2=place, y1=y.start, y2=y.start + 4))
        parts.append(_text(short(value), place, y.start + 15))
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
    if x_label:
        parts.append(_text(x_label, (x.start + x.end) / 2, y.start + 30, class_="name"))
    if y_label:
        parts.append(_text(y_label, x.start, y.end - 7, anchor="start", class_="name"))
    return join(parts)


def _text(
    text: str, x: float, y: float, *, anchor: str = "middle", class_: str | None = None
) -> Markup:
    return tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=class_)
