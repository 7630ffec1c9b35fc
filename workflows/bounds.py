"""What bounds a detector on an annotation file: answers that know part of the truth.

A weakly supervised model that scores below the whole-video answer has learned to classify, not to
localise; a model on a grid can do no better than the truth on that grid.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError
from pipeline.core.events import Event
from workflows.annotations import VideoLabels
from workflows.evaluate import truth_of
from workflows.metrics import TIOU, Scores, mean_average_precision

GRIDS_S = (1.0, 0.5, 0.25)
ROUNDS = 5  # shuffles whose scores are averaged: one moves the mAP by some tenths of a percent


class Candidate(NamedTuple):
    """One proposed event; of a higher rank means before all of a lower one, equals are shuffled."""

    start: float
    end: float
    label: str
    rank: float = 0.0


Answer = Callable[[VideoLabels, float], list[Candidate]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Scores of each answer by name.

    Attributes:
        scores: By the answer's name, each the mean of several shuffles.
        deviations: (T,) standard deviation of the mAP of a single shuffle, by the answer's name.
        videos: Number of videos.
    """

    scores: Mapping[str, Scores]
    deviations: Mapping[str, NDArray[np.float64]]
    videos: int

    def to_json(self) -> dict[str, Any]:
        """The bounds as plain values, fractions of 1."""
        return {
            "videos": self.videos,
            "bounds": {
                name: {
                    "tiou": list(found.tiou),
                    "mAP": found.by_tiou.tolist(),
                    "average_mAP": found.average,
                    "deviation_of_a_shuffle": self.deviations[name].tolist(),
                }
                for name, found in self.scores.items()
            },
        }

    def format_table(self) -> str:
        """The bounds as text, in percent."""
        tiou = next(iter(self.scores.values())).tiou
        levels = "".join(f"{level:>7.2f}" for level in tiou)
        lines = [f"{'mAP (%) at tIoU':<42}{levels}{'mean':>8}"]
        for name, found in self.scores.items():
            cells = "".join(f"{100 * value:>7.1f}" for value in found.by_tiou)
            lines.append(f"{name:<42}{cells}{100 * found.average:>8.1f}")
        largest = 100 * max(float(found.max()) for found in self.deviations.values())
        lines.append(
            f"{self.videos} videos; equal ranks are shuffled, mean of {ROUNDS} shuffles, of which "
            f"one deviates by up to {largest:.2f} (standard deviation of a cell)"
        )
        return "\n".join(lines)


def measure_bounds(videos: Mapping[str, VideoLabels], *, tiou: Sequence[float] = TIOU) -> Bounds:
    """Bounds on some annotated videos; beside a score, those that were scored.

    Args:
        videos: By id, with their events.
        tiou: Thresholds of the temporal IoU.

    Raises:
        ConfigError: None of the videos has an event.
    """
    answers: dict[str, Answer] = {
        "whole video, oracle labels": whole_video,
        "whole + halves + quarters, oracle labels": nested_parts,
    }
    for grid in GRIDS_S:
        answers[f"oracle activity, {grid:g} s grid"] = activity_on(grid)
    truth = truth_of(videos)
    if not any(truth.values()):
        raise ConfigError("the videos to measure bounds on have no annotated event")
    rounds = {
        name: [
            mean_average_precision(truth, _ranked(videos, answer, seed), tiou=tiou)
            for seed in range(ROUNDS)
        ]
        for name, answer in answers.items()
    }
    deviations = {
        name: np.std([found.by_tiou for found in several], axis=0, ddof=1)
        for name, several in rounds.items()
    }
    scores = {name: _expected(several) for name, several in rounds.items()}
    return Bounds(scores, deviations, len(videos))


def whole_video(video: VideoLabels, duration: float) -> list[Candidate]:
    """Each class of the video from its start to its end."""
    return [Candidate(0.0, duration, label) for label in _classes(video)]


def nested_parts(video: VideoLabels, duration: float) -> list[Candidate]:
    """Each class over the whole video, then over its halves, then over its quarters."""
    return [
        Candidate(duration * part / count, duration * (part + 1) / count, label, 1 / count)
        for label in _classes(video)
        for count in (1, 2, 4)
        for part in range(count)
    ]


def activity_on(grid: float) -> Answer:
    """Runs of steps that an event of the class covers by half or more.

    Args:
        grid: Seconds of a step.
    """

    def answer(video: VideoLabels, duration: float) -> list[Candidate]:
        steps = max(1, round(duration / grid))
        found = []
        for label in _classes(video):
            covered = np.zeros(steps)
            for event in video.events:
                if event.label == label:
                    first = np.arange(steps) * grid
                    share = np.minimum(first + grid, event.end) - np.maximum(first, event.start)
                    covered += share.clip(0.0) / grid
            active = np.concatenate([[False], covered >= 0.5, [False]])
            edges = np.flatnonzero(active[1:] != active[:-1]).reshape(-1, 2) * grid
            found += [Candidate(float(start), float(end), label) for start, end in edges]
        return found

    return answer


def _expected(rounds: Sequence[Scores]) -> Scores:
    """Mean of the precision of several shuffles."""
    return replace(rounds[0], precision=np.mean([found.precision for found in rounds], axis=0))


def _ranked(videos: Mapping[str, VideoLabels], answer: Answer, seed: int) -> dict[str, list[Event]]:
    """Every answer with a score that means nothing but its rank."""
    order = random.Random(seed)  # noqa: S311 - no secret
    return {
        id: [
            Event(found.start, found.end, found.label, (found.rank + 1e-3 * order.random()) / 2)
            for found in answer(video, video.duration or _last_end(video))
        ]
        for id, video in videos.items()
    }


def _classes(video: VideoLabels) -> list[str]:
    return list(dict.fromkeys(event.label for event in video.events))


def _last_end(video: VideoLabels) -> float:
    return max((event.end for event in video.events), default=0.0)
