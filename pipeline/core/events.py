"""Events: what the program finds in a video.

All times are float64 seconds on the container clock: the clock of the file's presentation
timestamps, with zero at the earliest stream start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

AGREEMENT = "agreement of sound and picture"
"""Label of the curve that belongs to no class; it comes last."""


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One event of one class.

    Attributes:
        start: First second of the event.
        end: Second at which the event is over; never before ``start``.
        label: Class name.
        score: Confidence; larger is surer. Comparable within one detector only.

    Raises:
        ValueError: A time or score is not finite, or ``end`` lies before ``start``.
    """

    start: float
    end: float
    label: str
    score: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.start, self.end, self.score))):
            raise ValueError(f"event of {self.label!r} has a time or score that is not finite")
        if self.end < self.start:
            raise ValueError(
                f"event of {self.label!r} ends at {self.end} s, before its start at {self.start} s"
            )

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Curves:
    """Activation of each class over time, for plots and for the HTML page.

    Attributes:
        times: (T,) seconds, centre of each step.
        labels: Names of the C classes; `AGREEMENT` for how far sound and picture agree.
        values: (T, C) activation in [0, 1].
    """

    times: NDArray[np.float64]
    labels: tuple[str, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Detections:
    """All events of one video.

    Attributes:
        video: The path or id that the user gave.
        duration: Seconds.
        events: Sorted by start time.
        detector: Name of the detector that found them.
        notes: What the user must know about this result ("no audio stream", "partial: ...").
        curves: Activations over time, if the detector offers them.
    """

    video: str
    duration: float
    events: tuple[Event, ...]
    detector: str
    notes: tuple[str, ...] = ()
    curves: Curves | None = field(default=None, compare=False)

    def above(self, min_score: float) -> Detections:
        """The same result with only the events whose score is at least ``min_score``."""
        kept = tuple(event for event in self.events if event.score >= min_score)
        return Detections(
            self.video, self.duration, kept, self.detector, self.notes, curves=self.curves
        )


def sort_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """Events by start, then end, then falling score."""
    return tuple(sorted(events, key=lambda e: (e.start, e.end, -e.score, e.label)))


def ground_truth_events(rows: Sequence[Mapping[str, Any]]) -> tuple[Event, ...]:
    """Events from the ``annotations`` list of one video of an ActivityNet-style file.

    Args:
        rows: Mappings with ``segment`` (two seconds) and ``label``.

    Returns:
        Events with score 1.
    """
    events = []
    for row in rows:
        start, end = row["segment"]
        events.append(Event(float(start), float(end), str(row["label"]), 1.0))
    return sort_events(events)
