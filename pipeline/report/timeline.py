"""Timelines of events as inline SVG.

Classes of events get a hue by their place in the list, as on the page of a video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.events import Event
from pipeline.report.axes import Scale, short, ticks
from pipeline.report.charts import figure, picture
from pipeline.report.markup import Markup, tag

LETTER = 6.3  # width of a letter in the units of the picture
LANE = 22.0  # height of a row of events
MAX_LANES = 12  # rows of a track; with more events at once the page says how many are left out


def event_colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each class; neighbours in the list differ."""
    return {
        label: f"hsl({round(number * 137.508 + 210) % 360} 60% 52%)"
        for number, label in enumerate(labels)
    }


@dataclass(frozen=True, slots=True)
class Track:
    """One row of a timeline.

    Attributes:
        name: Left of it.
        style: Class of its colour mark; empty for none.
        events: None where there is nothing to show, which is said.
    """

    name: str
    style: str
    events: Sequence[Event] | None


def timeline(
    title: str,
    tracks: Sequence[Track],
    *,
    duration: float,
    colours: Mapping[str, str],
    width: float = 980,
) -> Markup:
    """Tracks of events over the seconds of a video; events that overlap lie below each other.

    Args:
        title: Caption.
        tracks: From top to bottom.
        duration: Seconds of the video.
        colours: Of each class of events.
        width: Of the picture.
    """
    x = Scale(0.0, max(duration, 1e-6), 170, width - 14)
    parts, top = [], 4.0
    for track in tracks:
        lanes = pack(track.events or ())
        parts += _head(track, top, hidden=sum(map(len, lanes[MAX_LANES:])))
        if track.events is None:
            parts.append(tag("text", "not known", x=x.start, y=top + 18))
        for number, lane in enumerate(lanes[:MAX_LANES]):
            parts += [_bar(event, x, top + 4 + LANE * number, colours) for event in lane]
        top += LANE * min(max(1, len(lanes)), MAX_LANES) + 6
    parts.append(tag("line", class_="axis", x1=x.start, x2=x.end, y1=top, y2=top))
    for value in ticks(0, x.high, count=10):
        place = x(value)
        parts.append(tag("line", class_="tick", x1=place, x2=place, y1=top, y2=top + 4))
        parts.append(tag("text", f"{short(value)} s", x=place, y=top + 16, text_anchor="middle"))
    return figure(title, picture(width, top + 22, *parts, label=f"Timeline of {title}"))


def _head(track: Track, top: float, *, hidden: int) -> list[Markup]:
    """Rule, colour mark and name of a track."""
    name = track.name if len(track.name) < 24 else f"{track.name[:22]}…"
    parts = [
        tag("line", class_="grid", x1=0, x2=2000, y1=top, y2=top),
        tag("text", tag("title", track.name), name, class_="track", x=14.0, y=top + 18),
    ]
    if track.style:
        parts.append(tag("rect", class_=track.style, x=0, y=top + 8, width=8, height=12))
    if hidden:
        parts.append(tag("text", f"and {hidden} more events", x=14.0, y=top + 18 + LANE))
    return parts


def pack(events: Sequence[Event]) -> list[list[Event]]:
    """Rows in which no two events overlap, each event in the first row with room."""
    lanes: list[list[Event]] = []
    for event in sorted(events):
        for lane in lanes:
            if lane[-1].end <= event.start:
                lane.append(event)
                break
        else:
            lanes.append([event])
    return lanes


def _bar(event: Event, x: Scale, top: float, colours: Mapping[str, str]) -> Markup:
    left, right = x(max(event.start, 0.0)), x(min(event.end, x.high))
    width = max(right - left, 2.0)
    fill = colours.get(event.label, "gray")
    said = f"{event.label}, {event.start:.2f} to {event.end:.2f} s, score {event.score:.2f}"
    parts = [
        tag("title", said),
        tag(
            "rect",
            x=left,
            y=top,
            width=width,
            height=18,
            rx=3,
            fill=fill,
            fill_opacity=0.25 + 0.6 * min(max(event.score, 0.0), 1.0),
            stroke=fill,
        ),
    ]
    room = int((width - 8) / LETTER)
    if room >= 3:
        text = event.label if len(event.label) <= room else f"{event.label[: room - 1]}…"
        parts.append(tag("text", text, class_="inside", x=left + 5, y=top + 13))
    return tag("g", *parts)
