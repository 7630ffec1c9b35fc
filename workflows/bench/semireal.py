"""Where the agreement detector's numbers come from: real sounds and real pictures, put together.

The kit is a folder of real sounds (``audio/CATEGORY/*``) and real pictures (``images/CATEGORY/*``).
Sound and picture of one category make an event; of two unrelated ones, a trap. From it come the
calibration of the sound net, a check of the picture net's, and the smallest score.

Shapes: T steps, K classes of a net, C joint classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from extractors.registry import load_backbone
from extractors.windows import WindowGrid
from model.agreement import log_odds
from pipeline.core.events import Event
from workflows.bench.record import Figure
from workflows.bench.semireal_kit import Floats, Kit, load_kit
from workflows.bench.semireal_parts import Scorers, anchored_scorers, clasp_parts
from workflows.detection.agreement import AgreementScorer, AgreementSettings
from workflows.detection.anchored import AnchoredSettings
from workflows.detection.joint_classes import JointTable, load_joint_table
from workflows.metrics import interpolated_precision

TABLE = "semireal.yaml"
PARTS = 6  # stretches in a made timeline
MATCHED = 0.45  # share of stretches whose sound and picture are of one category
HIT_TIOU = 0.3
AP_TIOU = (0.3, 0.5)
NEWTON_STEPS = 50

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Truth:
    """Joint classes that are true of a category's sounds and of its pictures."""

    audio: Mapping[str, Sequence[str]]
    vision: Mapping[str, Sequence[str]]

    def both(self, sound: str, picture: str) -> set[str]:
        """Joint classes of a sound of one category over a picture of another."""
        return set(self.audio.get(sound, ())) & set(self.vision.get(picture, ()))


@dataclass(frozen=True, slots=True)
class Timeline:
    """One made timeline: rows for the scorer, and (first step, end step, classes) of its events."""

    rows: Mapping[str, NDArray[Any]]
    events: tuple[tuple[int, int, frozenset[str]], ...]


@dataclass(frozen=True, slots=True)
class SemirealReport:
    """What the kit says.

    Attributes:
        sounds: How many.
        pictures: How many.
        audio_fit: Platt slope and midpoint (as a probability) of the sound net.
        vision_fit: Slope, midpoint in uninformed shares, and exponent of a group's size.
        curve: Smallest score, precision, recall and F at tIoU 0.3.
        settings: Settings that the curve was made with.
        method: The detector of the curve, by its name in `workflows.detection.run.METHODS`.
        min_score: What the detector takes for the smallest score by itself.
        parts: Average precision over all scores at each of `AP_TIOU`, by what is changed of the
            detector; the first is the detector itself.
    """

    sounds: int
    pictures: int
    audio_fit: tuple[float, float]
    vision_fit: tuple[float, float, float]
    curve: tuple[tuple[float, float, float, float], ...]
    settings: AgreementSettings
    method: str
    min_score: float
    parts: Mapping[str, tuple[float, ...]]

    def figures(self) -> list[Figure]:
        """The report for machines."""
        fits = {
            "sound net": zip(("slope", "midpoint"), self.audio_fit, strict=True),
            "picture net": zip(("slope", "midpoint", "exponent"), self.vision_fit, strict=True),
        }
        figures = [
            Figure(f"{net}, {name}", value, "1", "neither")
            for net, fit in fits.items()
            for name, value in fit
        ]
        for score, precision, recall, f in self.curve:
            for name, value in (("precision", precision), ("recall", recall), ("F", f)):
                figures.append(Figure(f"score >= {score:.2f}, {name}", value, "1", "higher"))
        for part, values in self.parts.items():
            for tiou, value in zip(AP_TIOU, values, strict=True):
                figures.append(Figure(f"{part}, AP at {tiou}", value, "1", "higher"))
        return figures

    def format_table(self) -> str:
        """The report as text."""
        slope, midpoint = self.audio_fit
        v_slope, share, exponent = self.vision_fit
        lines = [
            f"{self.sounds} sounds, {self.pictures} pictures",
            f"sound net:   slope {slope:.2f}, even chance at a score of {midpoint:.4f}",
            f"picture net: slope {v_slope:.2f}, even chance at {share:.2f} of the uninformed share "
            f"n / K, for groups of n classes (n to the power {exponent:.2f})",
            f"method {self.method}, prior {self.settings.prior}, "
            f"smallest score in use {self.min_score}",
            "",
            f"{'score >=':>8} {'precision':>9} {'recall':>7} {'F':>6}   (tIoU {HIT_TIOU})",
        ]
        lines += [f"{s:>8.2f} {p:>9.3f} {r:>7.3f} {f:>6.3f}" for s, p, r, f in self.curve]
        levels = "".join(f"{tiou:>7.1f}" for tiou in AP_TIOU)
        lines += ["", f"{'AP (%) over all scores, at tIoU':<42}{levels}"]
        for part, values in self.parts.items():
            lines.append(f"{part:<42}" + "".join(f"{100 * value:>7.1f}" for value in values))
        return "\n".join(lines)


def measure_semireal(
    folder: Path,
    *,
    method: str = "agreement",
    device: str = "auto",
    settings: AgreementSettings | None = None,
    timelines: int = 200,
    seed: int = 0,
) -> SemirealReport:
    """Fit the calibration and measure the detector on timelines made from the kit.

    Args:
        folder: The kit.
        method: ``agreement``, or ``clasp`` for anchors on its scores.
        device: Torch device of the encoders.
        settings: Of the scores, for the timelines; the detector's own when omitted.
        timelines: How many are made.
        seed: Of the choice of sounds and pictures.

    Raises:
        NothingMatchedError: The folder holds no sounds or no pictures.
    """
    backbone = load_backbone("lite", device=device)
    table = load_joint_table(backbone.audio.class_names, backbone.vision.class_names)
    settings = settings or AgreementSettings()
    scorers, min_score = SCORERS[method](table, settings)
    parts = clasp_parts(table, settings) if method == "clasp" else {method: scorers}
    kit, truth = load_kit(folder, backbone), load_truth()
    made = make_timelines(kit, truth, timelines, np.random.default_rng(seed))
    return SemirealReport(
        sounds=sum(map(len, kit.sounds.values())),
        pictures=sum(map(len, kit.pictures.values())),
        audio_fit=fit_audio(kit, truth, table),
        vision_fit=fit_vision(kit, truth, table),
        curve=score_curve(made, scorers, backbone.spec.grid),
        settings=settings,
        method=method,
        min_score=min_score,
        parts={
            name: average_precisions(made, part, backbone.spec.grid) for name, part in parts.items()
        },
    )


def agreement_scorers(table: JointTable, settings: AgreementSettings) -> tuple[Scorers, float]:
    """The agreement detector, and its own smallest score."""
    loose = replace(settings, min_score=settings.recipe.min_score)
    return lambda: AgreementScorer(table, loose), settings.min_score


def clasp_scorers(table: JointTable, settings: AgreementSettings) -> tuple[Scorers, float]:
    """CLASP without training on the agreement detector's scores, and its own smallest score."""
    own = AnchoredSettings()
    return anchored_scorers(table, settings, own), own.min_score


SCORERS = {"agreement": agreement_scorers, "clasp": clasp_scorers}
"""Methods that `measure_semireal` knows."""


def load_truth() -> Truth:
    """The committed table of categories."""
    text = resources.files("workflows").joinpath("data", TABLE).read_text(encoding="utf-8")
    return Truth(**yaml.safe_load(text))


def fit_audio(kit: Kit, truth: Truth, table: JointTable) -> tuple[float, float]:
    """Platt fit of each sound's best window: slope, and the score that is an even chance."""
    scores = [table.audio_probabilities(s).max(0) for _, s in _pairs(kit.sounds)]
    labels = _true(table, truth.audio, kit.sounds)
    slope, offset = _fit([log_odds(np.stack(scores))], labels)
    return slope, float(1 / (1 + np.exp(offset / slope)))


def fit_vision(kit: Kit, truth: Truth, table: JointTable) -> tuple[float, float, float]:
    """Fit of slope, midpoint and group size: sigmoid(slope * (logit q - e ln n - midpoint))."""
    scores = np.stack([s for _, s in _pairs(kit.pictures)])
    odds = log_odds(table.vision_probabilities(scores))
    sizes = np.broadcast_to(np.log(table.vision_shares * table.vision_classes), odds.shape)
    labels = _true(table, truth.vision, kit.pictures)
    slope, by_size, offset = _fit([odds, sizes], labels)
    share = float(1 / (1 + np.exp(offset / slope))) * table.vision_classes
    return slope, share, -by_size / slope


def _pairs(group: Mapping[str, Sequence[Floats]]) -> Iterator[tuple[str, Floats]]:
    for category, entries in group.items():
        for entry in entries:
            yield category, entry


def _true(
    table: JointTable, truth: Mapping[str, Sequence[str]], group: Mapping[str, Sequence[Floats]]
) -> NDArray[np.bool_]:
    """(N, C) which joint classes are true of each entry."""
    rows = [[label in truth.get(c, ()) for label in table.labels] for c, _ in _pairs(group)]
    return np.array(rows, dtype=bool)


def _fit(inputs: Sequence[NDArray[Any]], labels: NDArray[np.bool_]) -> list[float]:
    """Logistic regression by Newton's method: a weight for each input, then the offset.

    Every class that has examples counts alike, and its examples as much as all others together,
    so that the fit is for even odds before the prior.
    """
    has = labels.any(axis=0)
    y = labels[:, has].astype(np.float64)
    weight = (y / y.sum(0) + (1 - y) / (1 - y).sum(0)).ravel()
    columns = [np.asarray(x, dtype=np.float64)[:, has].ravel() for x in inputs]
    x, y = np.stack([*columns, np.ones(y.size)], axis=1), y.ravel()
    beta = np.zeros(x.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(len(beta))
        beta += np.linalg.solve(hessian, x.T @ (weight * (y - p)))
    return [float(value) for value in beta]


def make_timelines(
    kit: Kit, truth: Truth, count: int, random: np.random.Generator
) -> list[Timeline]:
    """Timelines of stretches whose sound and picture belong together, or do not."""
    sounds, pictures = sorted(kit.sounds), sorted(kit.pictures)
    both = [name for name in sounds if name in kit.pictures and truth.both(name, name)]
    made = []
    for _ in range(count):
        chosen = []
        for _ in range(PARTS):
            if random.random() < MATCHED:
                name = _choose(both, random)
                chosen.append((name, name))
            else:
                chosen.append(_unrelated(sounds, pictures, truth, random))
        made.append(_timeline(kit, truth, chosen, random))
    return made


def _choose(items: Sequence[Item], random: np.random.Generator) -> Item:
    return items[int(random.integers(len(items)))]


def _unrelated(
    sounds: Sequence[str], pictures: Sequence[str], truth: Truth, random: np.random.Generator
) -> tuple[str, str]:
    while True:
        sound = _choose(sounds, random)
        picture = _choose(pictures, random)
        if sound != picture and not truth.both(sound, picture):
            return sound, picture


def _timeline(
    kit: Kit, truth: Truth, parts: Sequence[tuple[str, str]], random: np.random.Generator
) -> Timeline:
    audio, vision, events, first = [], [], [], 0
    heard, seen = [], []  # embeddings
    for sound, picture in parts:
        own_sound = int(random.integers(len(kit.sounds[sound])))
        own_picture = int(random.integers(len(kit.pictures[picture])))
        scores = kit.sounds[sound][own_sound]
        audio.append(scores)
        vision.append(np.repeat(kit.pictures[picture][own_picture][None], len(scores), axis=0))
        if kit.sound_embeddings:
            heard.append(kit.sound_embeddings[sound][own_sound])
            shown = kit.picture_embeddings[picture][own_picture]
            seen.append(np.repeat(shown[None], len(scores), axis=0))
        if sound == picture:
            events.append((first, first + len(scores), frozenset(truth.both(sound, picture))))
        first += len(scores)
    there = np.ones(first, dtype=bool)
    rows = {
        "audio_scores": np.concatenate(audio),
        "vision_scores": np.concatenate(vision),
        "audio_mask": there,
        "vision_mask": there,
    }
    if heard:
        rows |= {"audio": np.concatenate(heard), "vision": np.concatenate(seen)}
    return Timeline(rows, tuple(events))


def score_curve(
    made: Sequence[Timeline], scorers: Scorers, grid: WindowGrid
) -> tuple[tuple[float, float, float, float], ...]:
    """Precision, recall and F of all classes together at each smallest score.

    An event is a hit as for `_answers`.
    """
    found, total = _answers(made, _detected(made, scorers, grid), tiou=HIT_TIOU)
    return tuple(_point(found, total, level / 20) for level in range(2, 17))


def average_precisions(
    made: Sequence[Timeline], scorers: Scorers, grid: WindowGrid
) -> tuple[float, ...]:
    """Interpolated average precision of all classes together, at each of `AP_TIOU`."""
    detected = _detected(made, scorers, grid)
    values = []
    for tiou in AP_TIOU:
        found, total = _answers(made, detected, tiou=tiou)
        found.sort(key=lambda answer: -answer[0])
        hits = np.array([hit for _, hit in found], dtype=bool)
        values.append(float(interpolated_precision(hits[:, None], total)[0]) if total else 0.0)
    return tuple(values)


def _detected(made: Sequence[Timeline], scorers: Scorers, grid: WindowGrid) -> list[list[Event]]:
    """Events of each timeline, best first."""
    step = WindowGrid(Fraction(1), 1, 1, grid.sample_rate)  # one step a second: step k is [k, k+1)
    found = []
    for timeline in made:
        scorer = scorers()
        scorer.add(dict(timeline.rows))
        events, _ = scorer.finish(step, float(len(timeline.rows["audio_mask"])))
        found.append(events)
    return found


def _answers(
    made: Sequence[Timeline], detected: Sequence[Sequence[Event]], *, tiou: float
) -> tuple[list[tuple[float, bool]], int]:
    """Score of every event that is found and whether it is a hit; number of true events.

    It is one when one of its stretch's classes is named with this tIoU and the stretch has no hit
    yet; a second name for the same stretch counts as a false alarm.
    """
    found: list[tuple[float, bool]] = []
    for timeline, events in zip(made, detected, strict=True):
        waiting = list(timeline.events)
        for event in events:
            hits = [t for t in waiting if event.label in t[2] and _tiou(event, t) >= tiou]
            if hits:
                waiting.remove(hits[0])
            found.append((event.score, bool(hits)))
    return found, sum(len(timeline.events) for timeline in made)


def _tiou(event: Event, truth: tuple[int, int, frozenset[str]]) -> float:
    start, end = event.start, event.end
    shared = min(end, truth[1]) - max(start, truth[0])
    return max(0.0, shared) / (max(end, truth[1]) - min(start, truth[0]))


def _point(
    found: Sequence[tuple[float, bool]], total: int, least: float
) -> tuple[float, float, float, float]:
    kept = [hit for score, hit in found if score >= least]
    precision = sum(kept) / max(len(kept), 1)
    recall = sum(kept) / max(total, 1)
    both = precision + recall
    return least, precision, recall, 2 * precision * recall / both if both else 0.0
