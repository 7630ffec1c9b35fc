"""Line charts and box charts as inline SVG.

Colours come from the style sheet: ``r0`` to ``r5`` are the runs, ``baseline`` what they are held
against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.axes import Scale, frame, padded_range, short, ticks
from pipeline.report.markup import Markup, tag

RUN_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: For the tooltip.
        style: Class of its colour.
        points: x and y of each point.
    """

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def run_style(index: int) -> str:
    """Class of the colour of a run."""
    return f"r{index % RUN_COLOURS}"


def picture(width: float, height: float, *children: str, label: str) -> Markup:
    """An SVG that fills its column, with a name for those who cannot see it."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        preserveAspectRatio="xMinYMin meet",
    )


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str = "epoch",
    y_label: str = "",
    zero: bool = False,
    width: float = 340,
    height: float = 190,
) -> Markup:
    """Lines over a common x axis; an empty text without any point.

    Args:
        title: Caption.
        lines: At least one point in each; a single point is drawn as a dot.
        x_label: Name of the x axis.
        y_label: Name of the y axis.
        zero: Whether the y axis starts at 0.
        width: Of the picture.
        height: Of the picture.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    low, high = padded_range([y for line in lines for _, y in line.points], zero=zero)
    first, last = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    x = Scale(first, last, 46, width - 10)
    y = Scale(low, high, height - 36, 16 if y_label else 8)
    parts = [
        frame(
            x,
            y,
            x_ticks=[t for t in ticks(first, last, count=8) if x_label != "epoch" or t % 1 == 0],
            y_ticks=ticks(low, high),
            x_label=x_label,
            y_label=y_label,
        )
    ]
    # The first line is drawn last, above the others.
    parts += [_line(line, x, y) for line in reversed(lines)]
    return figure(title, picture(width, height, *parts, label=title))


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    name = tag("title", f"{line.name}: last {short(line.points[-1][1])}")
    places = [(x(px), y(py)) for px, py in line.points]
    if len(places) == 1:
        return tag("circle", name, class_=line.style, cx=places[0][0], cy=places[0][1], r=3)
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    return tag("polyline", name, class_=f"line {line.style}", points=path)


def figure(title: str, content: Markup) -> Markup:
    """A picture with its caption above."""
    return tag("figure", tag("figcaption", title), content)


@dataclass(frozen=True, slots=True)
class Box:
    """One box of a box chart.

    Attributes:
        group: Group on the x axis.
        name: For the tooltip.
        style: Class of its colour.
        quantiles: 5, 25, 50, 75 and 95 %.
    """

    group: str
    name: str
    style: str
    quantiles: Sequence[float]


def box_chart(
    title: str,
    boxes: Sequence[Box],
    *,
    reference: float,
    y_label: str,
    width: float = 520,
    height: float = 230,
) -> Markup:
    """Boxes side by side in groups: 5 to 95 % as a line, 25 to 75 % as a box, the median.

    Args:
        title: Caption.
        boxes: In order; those of a group follow each other.
        reference: Value of an untrained model, a dashed line.
        y_label: Name of the y axis.
        width: Of the picture.
        height: Of the picture.
    """
    values = [value for box in boxes for value in box.quantiles]
    low, high = padded_range([*values, reference])
    x, y = Scale(0, 1, 46, width - 8), Scale(low, high, height - 36, 18)
    groups = list(dict.fromkeys(box.group for box in boxes))
    parts = [frame(x, y, x_ticks=(), y_ticks=ticks(low, high), y_label=y_label)]
    line = y(reference)
    parts.append(tag("line", class_="reference", x1=x.start, x2=x.end, y1=line, y2=line))
    slot = (x.end - x.start) / max(1, len(groups))
    for number, group in enumerate(groups):
        mine = [box for box in boxes if box.group == group]
        start = x.start + number * slot
        centre = start + slot / 2
        parts.append(tag("text", group, x=centre, y=y.start + 15, text_anchor="middle"))
        step = 0.8 * slot / len(mine)
        for place, box in enumerate(mine):
            parts.append(_box(box, y, start + 0.1 * slot + (place + 0.5) * step, 0.7 * step))
    return figure(title, picture(width, height, *parts, label=title))


def _box(box: Box, y: Scale, middle: float, width: float) -> Markup:
    p5, p25, p50, p75, p95 = (y(value) for value in box.quantiles)
    half = min(width, 16) / 2
    sides = {"x1": middle - half, "x2": middle + half}
    return tag(
        "g",
        tag("title", f"{box.name}: median {short(box.quantiles[2])}"),
        tag("line", x1=middle, x2=middle, y1=p5, y2=p95),
        tag("rect", x=middle - half, y=p75, width=2 * half, height=max(p25 - p75, 1.0)),
        tag("line", class_="median", y1=p50, y2=p50, **sides),
        class_=f"box {box.style}",
    )
