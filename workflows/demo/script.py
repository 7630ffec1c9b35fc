"""The script of the demo's films: what is seen and what is heard when, and so what is an event.

A film is a list of parts. A part is one thing in one modality: a ball that bounces on the screen,
or the thumps of a ball in the loudspeaker. An event of a class is where that class is seen *and*
heard; the annotations are computed from the parts as that intersection and from nothing else.

Parts are dealt from a deck that keeps every class honest: for each event of a class there is one
stretch in which it is only seen and one in which it is only heard, and half of those stretches are
decoys in which one class is seen while another is heard. A detector that looks at one modality
cannot tell them from events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LABELS = ("ball", "fan", "siren", "bell")
Modality = Literal["vision", "audio"]
Kind = Literal["together", "staggered", "seen", "heard", "mismatch"]

PICTURE_RATE = 25  # frames a second
SHORTEST, LONGEST = 1.2, 3.2  # seconds in which a part is alone, or an event lasts
LEAD = (0.6, 1.6)  # seconds by which one modality comes first or stays on in a staggered event
PAUSE = (0.2, 0.8)  # seconds between two items of a lane
REST_EVERY, REST_LENGTH = 60.0, 6.0  # seconds; nothing is seen or heard at the end of each minute
SAME_CLASS_GAP = 0.6  # seconds between two items of one class, so that no sliver is an event
LANES = 2  # things that can be on at the same time


@dataclass(frozen=True, slots=True)
class Style:
    """How one individual of a class looks, moves and sounds.

    Attributes:
        hue: Colour in [0, 1).
        size: Radius as a share of the picture's height.
        place: Horizontal and vertical centre as shares of the picture.
        rate: Bounces, swings or turns a second; sound and movement share it.
        pitch: Factor on the class's base frequency.
        seed: Decides the remaining details: number of blades, brightness, noise.
    """

    hue: float
    size: float
    place: tuple[float, float]
    rate: float
    pitch: float
    seed: int


@dataclass(frozen=True, slots=True)
class Part:
    """One thing in one modality.

    Attributes:
        modality: Seen or heard.
        label: Class.
        start: First second; for pictures the time of a frame.
        end: Second at which it is over; for pictures the time of the first frame without it.
        clock: Second of a stroke, the same for both parts of an event, so that the ball thumps
            when it touches the ground. A sound begins with a stroke.
        style: The individual.
    """

    modality: Modality
    label: str
    start: float
    end: float
    clock: float
    style: Style


@dataclass(frozen=True, slots=True)
class Film:
    """One video of the demo.

    Attributes:
        name: File name without suffix.
        subset: ``train``, ``validation`` or ``test``.
        duration: Seconds; a whole number of frames.
        parts: Everything that is seen and heard.
        seed: Decides the background.
    """

    name: str
    subset: str
    duration: float
    parts: tuple[Part, ...]
    seed: int

    def intervals(self, label: str, modality: Modality) -> tuple[tuple[float, float], ...]:
        """When ``label`` is seen or heard: sorted (start, end) seconds."""
        spans = [(p.start, p.end) for p in self.parts if (p.label, p.modality) == (label, modality)]
        return tuple(sorted(spans))

    def events(self) -> tuple[tuple[float, float, str], ...]:
        """(start, end, label) of every event: seconds in which a class is seen and heard."""
        found = [
            (*span, label)
            for label in LABELS
            for span in intersect(self.intervals(label, "vision"), self.intervals(label, "audio"))
        ]
        return tuple(sorted(found))


def intersect(
    first: Iterable[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Non-empty intersections of two lists of disjoint intervals."""
    pairs = ((max(a, c), min(b, d)) for a, b in first for c, d in second)
    return [(start, end) for start, end in pairs if end > start]


@dataclass(frozen=True, slots=True)
class Card:
    """One item of the deck; ``other`` is the class that is heard in a mismatch."""

    kind: Kind
    label: str
    other: str

    @property
    def labels(self) -> set[str]:
        """Classes that the item occupies."""
        return {self.label, self.other}


class Deck:
    """Endless cards in balanced rounds.

    A round holds, for each class, three events (in one of them sight and sound start and end
    together, in two they are staggered), a stretch that is only seen, one that is only heard, and
    two decoys on either side, seen while another class is heard and the reverse.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._cards: list[Card] = []

    def draw(self, occupied: set[str]) -> Card:
        """Take the next card whose classes are free."""
        while True:
            for position, card in enumerate(self._cards):
                if not card.labels & occupied:
                    return self._cards.pop(position)
            self._cards.extend(self._round())

    def put_back(self, card: Card) -> None:
        """Return a card that did not fit; it is dealt first next time."""
        self._cards.insert(0, card)

    def _round(self) -> list[Card]:
        plain: tuple[Kind, ...] = ("together", "staggered", "staggered", "seen", "heard")
        cards = [Card(kind, label, label) for label in LABELS for kind in plain]
        shifts = self._rng.permutation(np.arange(1, len(LABELS)))[:2]
        for index, label in enumerate(LABELS):
            for shift in shifts:
                cards.append(Card("mismatch", label, LABELS[(index + shift) % len(LABELS)]))
        return [cards[i] for i in self._rng.permutation(len(cards))]


def write_film(
    name: str, *, subset: str, duration: float, deck: Deck, rng: np.random.Generator
) -> Film:
    """Deal cards into two lanes until the film is full.

    Args:
        name: File name without suffix.
        subset: Subset in the annotations.
        duration: Seconds; rounded to whole frames.
        deck: Where the items come from; shared by the films of a subset, so that the subset is
            balanced even where one film is not.
        rng: Source of all times and styles.
    """
    duration = to_frame(duration)
    cursors = [float(rng.uniform(*PAUSE)) for _ in range(LANES)]
    sides = rng.permutation(LANES)
    parts: list[Part] = []
    while min(cursors) < duration:
        lane = int(np.argmin(cursors))
        busy = {p.label for p in parts if p.end + SAME_CLASS_GAP > cursors[lane]}
        if len(busy) >= len(LABELS) - 1:  # a mismatch needs two free classes
            cursors[lane] += PAUSE[0]
            continue
        card = deck.draw(busy)
        item = list(_play(card, cursors[lane], side=int(sides[lane]), rng=rng))
        end = max(part.end for part in item)
        if end > _next_rest(cursors[lane], duration):
            deck.put_back(card)
            cursors[lane] = _next_rest(cursors[lane], duration) + REST_LENGTH
            continue
        parts.extend(item)
        cursors[lane] = end + float(rng.uniform(*PAUSE))
    return Film(name, subset, duration, tuple(parts), int(rng.integers(2**31)))


def _next_rest(time: float, duration: float) -> float:
    """The second by which all that starts at ``time`` must be over."""
    minute = np.floor(time / REST_EVERY) + 1
    return float(min(minute * REST_EVERY - REST_LENGTH, duration - PAUSE[0]))


def to_frame(seconds: float) -> float:
    """The frame time nearest to ``seconds``: pictures change only there."""
    return round(seconds * PICTURE_RATE) / PICTURE_RATE


def _play(card: Card, start: float, *, side: int, rng: np.random.Generator) -> Iterator[Part]:
    """Turn one card into its parts, the first of which starts at ``start``."""
    length = float(rng.uniform(SHORTEST, LONGEST))
    style = _draw_style(side, rng)
    if card.kind == "mismatch":
        other = _draw_style(side, rng)
        yield _part("vision", card.label, start, start + length, style, clock=start)
        yield _part("audio", card.other, start, start + length, other, clock=start)
        return
    seen, heard = [start, start + length], [start, start + length]
    if card.kind == "staggered":
        before, after = (float(value) for value in rng.uniform(*LEAD, size=2))
        late, early = (seen, heard) if rng.random() < 0.5 else (heard, seen)
        late[0] += before
        late[1] += before
        early[1] += before
        (seen if rng.random() < 0.5 else heard)[1] += after
    clock = seen[0] if card.kind == "seen" else heard[0]
    if card.kind != "heard":
        yield _part("vision", card.label, seen[0], seen[1], style, clock=clock)
    if card.kind != "seen":
        yield _part("audio", card.label, heard[0], heard[1], style, clock=clock)


def _part(
    modality: Modality, label: str, start: float, end: float, style: Style, *, clock: float
) -> Part:
    if modality == "vision":
        start, end = to_frame(start), to_frame(end)
    return Part(modality, label, start, end, clock, style)


def _draw_style(side: int, rng: np.random.Generator) -> Style:
    centre = (side + 0.5) / LANES
    return Style(
        hue=float(rng.random()),
        size=float(rng.uniform(0.14, 0.22)),
        place=(centre + float(rng.uniform(-0.03, 0.03)), float(rng.uniform(0.38, 0.62))),
        rate=float(rng.uniform(2.6, 4.0)),
        pitch=float(2.0 ** rng.uniform(-0.4, 0.4)),
        seed=int(rng.integers(2**31)),
    )
