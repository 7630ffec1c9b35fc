"""One simulated video: what is seen and heard when, and the features of it.

Time is counted in cells, one stride of the grid each; a window covers several. See
docs/simulation.md for the reasons behind each constant.

Shapes: T steps, J cells, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from extractors.features import Rows
from extractors.spec import MODALITIES, Modality
from extractors.windows import WindowGrid
from pipeline.core.events import Event
from workflows.simulation.world import Array, Encoder

LAG_S = 0.5  # mean time by which one modality begins earlier or ends later than the other
LAG_SHARE = 0.25  # of the event: short events have short lags
JITTER_S = 0.05  # of the border that both share: annotators and encoders are not exact
DISTRACTORS = 2.0  # mean number in each modality per DISTRACTOR_SPAN_S of video
DISTRACTOR_SPAN_S = 42.0  # mean length of UnAV-100's videos
DISTRACTOR_LIMIT = 0.6  # longest distractor, share of the video
OWN_CLASS = 0.5  # probability that a distractor is of a class that has events in the video
GAP_S = 1.0  # between a distractor and anything of its class in the other modality
TRIES = 20  # places that are tried for a distractor

INSTANCE_SHARE = 0.4  # share of variance that sets one source apart from its class
GAIN_SPREAD = 0.35  # standard deviation of the log of a source's strength
SWELL_SPREAD, SWELL_S = 0.3, 1.0  # its change over time: of the log, and how fast
SCENE_S = 8.0  # time constant of the part of the scene that changes
NUISANCE_S = 0.5  # time constant of what moves and sounds without a class
WHITE_NORM = 0.5  # of white noise, in norms of the nuisance
VISION_NORM = 12.0  # norm of a prototype in picture features; sound features have unit length


@dataclass(frozen=True, slots=True)
class Source:
    """Something of a class, in one modality or in both.

    Attributes:
        label: Number of its class.
        spans: Start and end in seconds in each modality that has it.
    """

    label: int
    spans: Mapping[Modality, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Habits:
    """What distractors are drawn from.

    Attributes:
        shares: (K,) how often each class occurs; sums to 1.
        lengths: (N,) lengths of real events, seconds.
    """

    shares: Array
    lengths: Array


@dataclass(slots=True)
class Bond:
    """What picture and sound of one video know of each other beyond class and time.

    A share of every scene's and every source's own variance is the same in both modalities: the
    same numbers along the main directions of each encoder, and the same changes of strength. With
    share 0 the two have nothing in common, as two encoders that were trained apart.

    Attributes:
        share: Of the variance, 0 to 1.
        rng: Decides what they have in common; another one than decides the rest, so that the share
            changes nothing else.
        width: The larger D of the two encoders.
        scene: Filled on the first call, for both modalities.
        sources: Likewise, by the place of the source.
    """

    share: float
    rng: np.random.Generator
    width: int
    scene: tuple[Array, Array] | None = None
    sources: dict[int, tuple[Array, Array]] = field(default_factory=dict)

    def of_scene(self, cells: int) -> tuple[Array, Array]:
        """(1, D) and (J, D) normals of the constant and of the changing part."""
        if self.scene is None:
            self.scene = self._normals(1, self.width), self._normals(cells, self.width)
        return self.scene

    def of_source(self, place: int, cells: int) -> tuple[Array, Array]:
        """(1, D) normals of the source itself, and (J + 1, 1) of its strength and its changes."""
        if place not in self.sources:
            self.sources[place] = self._normals(1, self.width), self._normals(cells + 1, 1)
        return self.sources[place]

    def blend(self, own: Array, common: Array) -> Array:
        """Both of one variance in, what the modality has of that variance out."""
        blended: Array = np.sqrt(1 - self.share) * own + np.sqrt(self.share) * common
        return blended

    def _normals(self, count: int, width: int) -> Array:
        return self.rng.standard_normal((count, width))


def plan_video(
    events: Sequence[Event],
    numbers: Mapping[str, int],
    duration: float,
    habits: Habits,
    rng: np.random.Generator,
) -> list[Source]:
    """All that is seen and heard in a video: its events, and distractors of one modality each.

    An event is where its class is both seen and heard: at each border one modality, drawn by lot,
    gives the border and the other reaches beyond it. A distractor never meets its class in the
    other modality.

    Args:
        events: The true events.
        numbers: Number of each class.
        duration: Seconds of the video.
        habits: Classes and lengths of distractors.
        rng: Decides everything.
    """
    sources = [_event_source(event, numbers[event.label], duration, rng) for event in events]
    for modality in MODALITIES:
        for _ in range(rng.poisson(DISTRACTORS * duration / DISTRACTOR_SPAN_S)):
            found = _distractor(modality, sources, duration, habits, rng)
            if found is not None:
                sources.append(found)
    return sources


def _event_source(event: Event, label: int, duration: float, rng: np.random.Generator) -> Source:
    length = event.end - event.start
    spans = {modality: [event.start, event.end] for modality in MODALITIES}
    for border, sign in ((0, -1.0), (1, 1.0)):
        first, second = (MODALITIES[place] for place in rng.permutation(2))
        jitter = rng.normal() * min(JITTER_S, LAG_SHARE * length / 4)
        lag = min(rng.exponential(LAG_S), LAG_SHARE * length)
        spans[first][border] += jitter
        spans[second][border] += jitter + sign * lag
    return Source(
        label,
        {
            modality: (max(0.0, start), min(duration, end))
            for modality, (start, end) in spans.items()
        },
    )


def _distractor(
    modality: Modality,
    sources: Sequence[Source],
    duration: float,
    habits: Habits,
    rng: np.random.Generator,
) -> Source | None:
    """Something that is only seen or only heard; None where there is no place for it."""
    present = sorted({source.label for source in sources if len(source.spans) > 1})
    for _ in range(TRIES):
        if present and rng.random() < OWN_CLASS:
            label = int(rng.choice(present))
        else:
            label = int(rng.choice(len(habits.shares), p=habits.shares))
        length = min(float(rng.choice(habits.lengths)), DISTRACTOR_LIMIT * duration)
        start = rng.random() * (duration - length)
        if not any(
            start < end + GAP_S and first < start + length + GAP_S
            for source in sources
            if source.label == label
            for first, end in source.spans.values()
        ):
            return Source(label, {modality: (start, start + length)})
    return None


def video_rows(
    sources: Sequence[Source],
    world: Mapping[Modality, Encoder],
    grid: WindowGrid,
    duration: float,
    *,
    noise: float,
    bond: Bond,
    rng: np.random.Generator,
) -> Rows:
    """Features of one video, every array of (T, ...).

    Args:
        sources: All that is seen and heard.
        world: The two encoders.
        grid: Where the steps lie.
        duration: Seconds of the video.
        noise: Strength of everything without a class, in norms of a prototype.
        bond: What the modalities have in common.
        rng: Decides everything else.
    """
    steps = grid.steps(duration)
    rows: Rows = {}
    for modality in MODALITIES:
        encoder = world[modality]
        vectors = noise * _background(encoder, _cells(grid, steps), grid.step_seconds, bond, rng)
        for place, source in enumerate(sources):
            if modality in source.spans:
                common = bond.of_source(place, len(vectors))
                vector = _source_vector(source, encoder, bond, common[0], rng)
                strength = _strength(len(vectors), grid.step_seconds, bond, common[1], rng)
                activity = _activity(source.spans[modality], len(vectors), grid) * strength
                vectors += activity[:, None] * vector
        features = encoder.rotate(encoder.mean + _smear(vectors, grid, steps))
        if modality == "audio":
            features /= np.linalg.norm(features, axis=1, keepdims=True)
        else:
            features *= VISION_NORM
        rows[modality] = features.astype(np.float32)
        rows[f"{modality}_mask"] = np.ones(steps, np.bool_)
    return rows


def _cells(grid: WindowGrid, steps: int) -> int:
    """Cells that ``steps`` windows cover."""
    return steps + grid.window // grid.stride - 1


def _smear(vectors: Array, grid: WindowGrid, steps: int) -> Array:
    """(J, D) cells in, (T, D) means over windows out."""
    width = grid.window // grid.stride
    parts = [vectors[first : first + steps] for first in range(width)]
    mean: Array = np.mean(parts, axis=0)
    return mean


def _background(
    encoder: Encoder, cells: int, cell_s: float, bond: Bond, rng: np.random.Generator
) -> Array:
    """(J, D) scene, nuisance and white noise; the first two have the encoder's covariance."""
    still, moving = bond.of_scene(cells)
    constant = bond.blend(encoder.draw(rng, 1), encoder.colour(still))
    innovations = bond.blend(encoder.draw(rng, cells), encoder.colour(moving))
    changing = _drift(innovations, cell_s, SCENE_S)
    nuisance = _drift(encoder.draw(rng, cells), cell_s, NUISANCE_S)
    white = rng.standard_normal((cells, encoder.dim)) * (WHITE_NORM / np.sqrt(encoder.dim))
    background: Array = np.sqrt(0.5) * (constant + changing) + nuisance + white
    return background


def _source_vector(
    source: Source, encoder: Encoder, bond: Bond, common: Array, rng: np.random.Generator
) -> Array:
    """(D,) direction of a source: that of its class, and what sets it apart from the class."""
    own = bond.blend(encoder.draw(rng, 1), encoder.colour(common))[0]
    vector: Array = (
        np.sqrt(1 - INSTANCE_SHARE) * encoder.prototypes[source.label]
        + np.sqrt(INSTANCE_SHARE) * own
    )
    return vector


def _strength(
    cells: int, cell_s: float, bond: Bond, common: Array, rng: np.random.Generator
) -> Array:
    """(J,) how strong a source is at each time."""
    innovations = bond.blend(rng.standard_normal((cells, 1)), common[1:])
    swell = _drift(innovations, cell_s, SWELL_S)[:, 0]
    gain = bond.blend(rng.standard_normal(1), common[0])
    strength: Array = np.exp(GAIN_SPREAD * gain + SWELL_SPREAD * swell)
    return strength


def _activity(span: tuple[float, float], cells: int, grid: WindowGrid) -> Array:
    """(J,) share of each cell in which a source is there."""
    first = np.arange(cells) * grid.step_seconds
    covered = np.minimum(first + grid.step_seconds, span[1]) - np.maximum(first, span[0])
    return np.clip(covered / grid.step_seconds, 0.0, 1.0)


def _drift(innovations: Array, cell_s: float, constant_s: float) -> Array:
    """(J, D) white vectors in, a stationary process of the same variance out (Ornstein-Uhlenbeck).

    Args:
        innovations: White, of the variance wanted.
        cell_s: Seconds from one to the next.
        constant_s: Time after which the correlation has fallen to 1/e.
    """
    keep = np.exp(-cell_s / constant_s)
    path = innovations * np.sqrt(1 - keep**2)
    path[0] = innovations[0]
    for cell in range(1, len(path)):
        path[cell] += keep * path[cell - 1]
    return path
