"""What the page of a training run shows, as plain values.

Shapes: Tv and Ta steps of picture and sound in a matrix, V videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.events import Event

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class ScoreView:
    """What the eval stage wrote; fractions of 1.

    Attributes:
        tiou: Thresholds.
        mean: mAP at each.
        average: Mean of `mean`.
        classes: Average precision of each class, mean over the thresholds.
        events: True events of each class.
        baseline: mAP of whole-video predictions at each threshold.
        videos: Number of videos.
    """

    tiou: tuple[float, ...]
    mean: tuple[float, ...]
    average: float
    classes: Mapping[str, float]
    events: Mapping[str, int]
    baseline: tuple[float, ...]
    videos: int


@dataclass(frozen=True, slots=True)
class SimilarityView:
    """Cross-similarity over the test split (LoCo, Fig. 4).

    Attributes:
        deviations: (V,) standard deviation of each video's matrix.
        level: Mean of all cells, then over videos.
        synchronous: Mean of the cells of one moment, then over videos; None where no video has
            a moment with both.
        nearest: Of the picture's steps, the shares whose most similar sound lies within a second
            of: the same moment; with the sound of ten seconds later, the same position; then, the
            sound of the same moment; and what chance reaches. Means over videos; None where no
            video is long enough (see `workflows.quality.shift`).
        shifted: Number of videos behind ``nearest``.
    """

    deviations: NDArray[np.float64]
    level: float
    synchronous: float | None
    nearest: tuple[float, float, float, float] | None = None
    shifted: int = 0

    @property
    def mean_deviation(self) -> float:
        """The paper's "mean of std"."""
        return float(self.deviations.mean())


@dataclass(frozen=True, slots=True)
class WindowView:
    """Windows that one head chose on one level, over the test split.

    Attributes:
        asks: Stream of the queries.
        answers: Stream on which the windows lie.
        part: ``both``, ``key`` or ``value``.
        level: From 1, the finest.
        head: From 1.
        base: Base window W, in steps of the level.
        step_seconds: Seconds of a step of the level.
        size: W (1 + s) at each of `QUANTILES`, in steps of the level.
        offset: o W / 2 likewise.
        count: Windows that were counted.
    """

    asks: str
    answers: str
    part: str
    level: int
    head: int
    base: int
    step_seconds: float
    size: tuple[float, ...]
    offset: tuple[float, ...]
    count: int


@dataclass(frozen=True, slots=True)
class RunView:
    """One run.

    Attributes:
        name: Short and unique on the page.
        about: Its main choices in a few words.
        facts: Rows of its card: what it is, and the command that made it.
        recipe: Text of its recipe.
        missing: Parts that are not there, and why, one sentence each.
        log: One row an epoch.
        scores: Of the eval stage.
        threshold: Score from which on its events are shown.
        similarity: Of its two streams.
        windows: One entry a block, level and head; none without dynamic windows.
    """

    name: str
    about: str
    facts: tuple[tuple[str, str], ...]
    recipe: str
    missing: tuple[str, ...] = ()
    log: tuple[Mapping[str, float], ...] = ()
    scores: ScoreView | None = None
    threshold: float | None = None
    similarity: SimilarityView | None = None
    windows: tuple[WindowView, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The figures, without log and recipe."""
        similarity = self.similarity
        nearest = None
        if similarity is not None and similarity.nearest is not None:
            names = ("moment", "position", "content", "chance")
            shares = dict(zip(names, similarity.nearest, strict=True))
            nearest = {**shares, "videos": similarity.shifted}
        return {
            "name": self.name,
            "about": self.about,
            "average_mAP": None if self.scores is None else self.scores.average,
            "threshold": self.threshold,
            "mean_of_std": None if similarity is None else similarity.mean_deviation,
            "mean_similarity": None if similarity is None else similarity.level,
            "synchronous_similarity": None if similarity is None else similarity.synchronous,
            "nearest_sound": nearest,
            "sigma": self.last("sigma"),
            "temperature": self.last("temperature"),
            "epochs": len(self.log),
            "missing": list(self.missing),
        }

    def last(self, column: str) -> float | None:
        """Value of a column of the log in the last row that has it."""
        values = [row[column] for row in self.log if column in row]
        return values[-1] if values else None


@dataclass(frozen=True, slots=True)
class VideoView:
    """One test video as the runs see it; lists are in the order of the runs.

    Attributes:
        id: Its name.
        duration: Seconds.
        truth: True events.
        found: Events of each run above its threshold; None for a run that could not be asked.
        matrices: Cross-similarity of each run, (Tv, Ta) with NaN where a step does not exist.
        matrix_span: First and last second that the matrices cover.
    """

    id: str
    duration: float
    truth: tuple[Event, ...]
    found: tuple[tuple[Event, ...] | None, ...]
    matrices: tuple[NDArray[np.float32] | None, ...]
    matrix_span: tuple[float, float]


@dataclass(frozen=True, slots=True)
class RunsView:
    """The whole page.

    Attributes:
        runs: First the one that the report is about.
        videos: A few of the test split.
        differences: Name of each value of the recipes that differs, and the value in each run.
        measured: Number of test videos behind similarity and windows.
        notes: What the reader must know.
    """

    runs: tuple[RunView, ...]
    videos: tuple[VideoView, ...] = ()
    differences: tuple[tuple[str, tuple[str, ...]], ...] = ()
    measured: int = 0
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """Classes of all events of the videos, sorted."""
        seen = {event.label for video in self.videos for event in video.truth}
        seen |= {e.label for video in self.videos for found in video.found for e in found or ()}
        return sorted(seen)

    def format_table(self) -> str:
        """The figures as text, one run a line."""
        width = max(3, *(len(run.name) for run in self.runs))
        head = f"{'run':<{width}}{'mAP (%)':>10}{'mean of std':>13}{'sigma':>9}{'temperature':>13}"
        head += f"{'moment':>9}{'position':>10}{'content':>9}{'chance':>8}"
        lines = [head]
        for run in self.runs:
            score = None if run.scores is None else 100 * run.scores.average
            found = None if run.similarity is None else run.similarity.mean_deviation
            nearest = (run.similarity and run.similarity.nearest) or (None,) * 4
            moment, position, content, chance = (
                _cell(None if share is None else 100 * share, 1) for share in nearest
            )
            lines.append(
                f"{run.name:<{width}}{_cell(score, 2):>10}{_cell(found, 4):>13}"
                f"{_cell(run.last('sigma'), 3):>9}{_cell(run.last('temperature'), 4):>13}"
                f"{moment:>9}{position:>10}{content:>9}{chance:>8}"
            )
        lines += [
            f"similarity over {self.measured} test videos",
            "moment: % of picture steps whose most similar sound is that moment's (within 1 s);",
            "with the sound of 10 s later: position, that of its place; content, that moment's",
        ]
        said = [*self.notes, *(f"{run.name}: {part}" for run in self.runs for part in run.missing)]
        return "\n".join([*lines, *(f"note: {text}" for text in said)])


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
