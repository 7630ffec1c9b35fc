"""Heat maps over time in both directions, as inline SVG around a picture.

Shapes: H rows, W columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.events import Event
from pipeline.report.axes import Scale, short, ticks
from pipeline.report.charts import figure, picture
from pipeline.report.markup import Markup, tag
from pipeline.report.png import data_address, heat_png

MAX_PIXELS = 256  # cells along an axis; larger matrices are averaged


@dataclass(frozen=True, slots=True)
class HeatScale:
    """Colours of a set of heat maps: the values of the darkest and of the lightest."""

    low: float
    high: float


def heat_map(
    title: str,
    values: NDArray[np.float32],
    scale: HeatScale,
    *,
    span: tuple[float, float],
    events: Sequence[Event] = (),
    colours: Mapping[str, str] | None = None,
    size: float = 260,
) -> Markup:
    """A square matrix over time in both directions; rows run downwards from the start.

    Args:
        title: Caption.
        values: (H, W) of picture (rows) and sound (columns); NaN is left blank.
        scale: Of the colours.
        span: First and last second of both axes.
        events: True events, shown as bars beside both axes.
        colours: Of each class of events.
        size: Of the picture.
    """
    start, end = 40.0, size - 8
    x, y = Scale(*span, start, end), Scale(*span, 12.0, 12 + end - start)
    image = tag(
        "image",
        href=data_address(heat_png(shrink(values, MAX_PIXELS), scale.low, scale.high)),
        x=start,
        y=y.start,
        width=end - start,
        height=y.end - y.start,
        preserveAspectRatio="none",
    )
    parts = [image]
    for event in events:
        low, high = max(event.start, span[0]), min(event.end, span[1])
        if high <= low:
            continue
        fill = (colours or {}).get(event.label, "gray")
        name = tag("title", f"{event.label} {event.start:.2f} to {event.end:.2f} s")
        side = {"y": y(low), "height": y(high) - y(low), "x": start - 8, "width": 5.0}
        top = {"x": x(low), "width": x(high) - x(low), "y": y.start - 8, "height": 5.0}
        parts += [tag("rect", name, fill=fill, **side), tag("rect", name, fill=fill, **top)]
    for value in ticks(*span, count=4):
        parts.append(tag("text", short(value), x=start - 11, y=y(value) + 3.5, text_anchor="end"))
        parts.append(tag("text", short(value), x=x(value), y=y.end + 14, text_anchor="middle"))
    parts.append(
        tag("text", "sound, s", class_="name", x=(start + end) / 2, y=y.end + 28,
            text_anchor="middle")
    )  # fmt: skip
    middle = (y.start + y.end) / 2
    parts.append(
        tag("text", "picture, s", class_="name", x=9.0, y=middle, text_anchor="middle",
            transform=f"rotate(-90 9 {middle:g})")
    )  # fmt: skip
    return figure(title, picture(size, y.end + 34, *parts, label=title))


def heat_legend(scale: HeatScale, *, label: str) -> Markup:
    """The colours of `heat_map` from low to high."""
    ramp = np.linspace(scale.low, scale.high, 128, dtype=np.float32)[None]
    image = tag(
        "image",
        href=data_address(heat_png(ramp, scale.low, scale.high)),
        x=0,
        y=0,
        width=220,
        height=10,
        preserveAspectRatio="none",
    )
    ends = [
        tag("text", short(scale.low), x=0, y=24, text_anchor="start"),
        tag("text", label, class_="name", x=110, y=24, text_anchor="middle"),
        tag("text", short(scale.high), x=220, y=24, text_anchor="end"),
    ]
    return tag("div", picture(220, 30, image, *ends, label=label), class_="ramp")


def shrink(values: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Means of blocks, so that neither side is longer than ``limit``; NaN cells do not count."""
    rows, columns = (-(-side // limit) for side in values.shape)
    if rows == columns == 1:
        return values
    pad = [(0, -values.shape[0] % rows), (0, -values.shape[1] % columns)]
    padded = np.pad(values.astype(np.float64), pad, constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    known = ~np.isnan(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0).sum(axis=(1, 3))
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means.astype(np.float32)
