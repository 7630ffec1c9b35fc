"""Sections of a recipe for training from labels of whole videos, and from few segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.recipe_fields import (
    Limit,
    at_least,
    between,
    choice,
    limited,
    positive,
    rising_shares,
)

SELECTIONS = (
    "bernoulli",
    "softmax",
    "l1",
    "cosine",
    "product",
    "confidence",
    "random",
    "spread",
    "least",
)
ANCHORS = ("both", "global", "local", "none")
ANCHOR_BIASES = ("score", "gradient", "none")
ANCHOR_FUSIONS = ("joint", "own")
PROPAGATIONS = ("attention", "threshold", "none")
GATES = ("step", "channel")
STREAM_FUSIONS = ("concatenation", "mean")
POOLINGS = ("top", "attention", "modality")
FILTERS = ("mean", "median")
STRONG = ("random", "annotated")
EVENT_TARGETS = ("hard", "weighted", "soft")


@dataclass(frozen=True, slots=True)
class ClaspConfig:
    """What CLASP has beside the encoder; each value is an argument of `model.clasp.CLASP`.

    Attributes:
        selection: What makes an anchor: agreement of sound and picture by ``bernoulli``,
            ``softmax``, ``l1``, ``cosine`` or ``product``; ``confidence`` alone. Controls: steps
            drawn at ``random``, anew in training; evenly ``spread`` ones, always the same; those of
            ``least`` agreement.
        anchors: Found over the whole video (``global``), within windows (``local``), ``both``, or
            ``none``.
        anchor_divisor: Steps for each global anchor.
        anchor_window: Steps of a local window.
        anchors_per_window: Anchors of a window.
        keep_repeated: Whether a step chosen globally and locally enters twice.
        temporal_gate: Whether each modality amplifies steps of the other.
        anchor_bias: Whether anchors of a higher ``score`` of agreement weigh more; likewise, with
            ``gradient`` to the evidence that it comes from; or ``none``, as in the controls. Of no
            effect on ``threshold``.
        anchor_fusion: ``joint`` features of both modalities, or each modality's ``own``.
        propagation: How anchors reach all steps: ``attention``, ``threshold`` or ``none``.
        propagation_threshold: Smallest weight of an anchor for ``threshold``, over an even weight.
        gate: By which a step refuses what it is told: one number a ``step``, or one a ``channel``.
        rest: Whether there is one learned anchor more, which stands for nothing.
        stream_fusion: What the joint classifier reads: ``concatenation`` of both streams, or their
            ``mean``.
        pooling: From steps to the video: ``top`` steps, ``attention``, or attention over steps and
            ``modality``.
        pool_divisor: Steps for each of the steps that ``top`` takes the mean of.
        evidence_weight: Of the classifiers before the modalities meet.
        smoothness_weight: Of the change from step to step.
        sparsity_weight: Of the largest activation of each step.
    """

    selection: str = choice("bernoulli", SELECTIONS)
    anchors: str = choice("both", ANCHORS)
    anchor_divisor: int = at_least(8, 1)
    anchor_window: int = at_least(16, 1)
    anchors_per_window: int = at_least(2, 1)
    keep_repeated: bool = True
    temporal_gate: bool = False
    anchor_bias: str = choice("score", ANCHOR_BIASES)
    anchor_fusion: str = choice("joint", ANCHOR_FUSIONS)
    propagation: str = choice("attention", PROPAGATIONS)
    propagation_threshold: float = at_least(0.95, 0)
    gate: str = choice("step", GATES)
    rest: bool = False
    stream_fusion: str = choice("concatenation", STREAM_FUSIONS)
    pooling: str = choice("top", POOLINGS)
    pool_divisor: int = at_least(8, 1)
    evidence_weight: float = at_least(1.0, 0)
    smoothness_weight: float = at_least(0.1, 0)
    sparsity_weight: float = at_least(0.0, 0)


@dataclass(frozen=True, slots=True)
class LocaliseConfig:
    """From activation to events, for CLASP; see `model.activation.Recipe`.

    Attributes:
        smoothing: Steps around each that smooth its activation.
        filter: What is taken of these steps: their ``mean`` or their ``median``.
        thresholds: Each one's connected runs are candidates.
        outer: Width of the surroundings that a candidate is compared with, in its lengths; 0
            compares it with nothing.
        video_weight: Weight of the video's score beside the contrast.
        min_video_score: Classes that the video scores lower are left out.
        sigma: Of Soft-NMS.
    """

    smoothing: int = at_least(5, 1)
    filter: str = choice("mean", FILTERS)
    thresholds: tuple[float, ...] = limited(
        (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), Limit("rising thresholds in (0, 1]", rising_shares)
    )
    outer: float = at_least(0.5, 0)
    video_weight: float = at_least(0.2, 0)
    min_video_score: float = between(0.0, 0, 1)
    sigma: float = positive(0.4)


@dataclass(frozen=True, slots=True)
class SemiWeakConfig:
    """LoCo from few segments: a weak model's events stand in for those of all other videos.

    Attributes:
        teacher: At most one: the checkpoint of a weak model (``.safetensors``), or the recipe of
            one, which is then trained first, on the same data with the same seed. None trains on
            all segments, as ever.
        strong: Which videos have segments that are read: ``random`` ones of all training videos,
            each of which must then have them; or, of a file with segments for some videos only,
            those that are ``annotated``: all whose every row has a valid segment.
        strong_fraction: Share of the training videos whose segments are read, at most; with
            ``annotated``, 1 reads all that there are.
        min_score: Weaker events of the teacher are left out.
        event_targets: What the score of the teacher's event is: nothing (``hard``: its events are
            taken for true ones), their weight in the loss (``weighted``), or the target of the
            class score (``soft``; then all its candidates count, one within another, and the ends
            of each weigh as much as its score).
        ignore: Two shares, or none: steps outside of the teacher's events where its activation of
            a class of the video reaches the first, and steps inside where it does not reach the
            second, are left out of the loss of that class.
        warm_start: Whether the student starts with the teacher's embedding and unimodal blocks,
            which LoCo and CLASP share, in place of fresh ones; the two must be of one size. Of no
            effect where no teacher is asked.
        weak_videos: Whether videos without segments are learned from at all; without them nothing
            is asked of a teacher.
    """

    teacher: tuple[Path, ...] = limited(
        (), Limit("one recipe or checkpoint, or none", lambda paths: len(paths) <= 1)
    )
    strong: str = choice("random", STRONG)
    strong_fraction: float = between(1.0, 0, 1)
    min_score: float = between(0.1, 0, 1)
    event_targets: str = choice("soft", EVENT_TARGETS)
    ignore: tuple[float, ...] = limited(
        (), Limit("none, or two rising shares in (0, 1]", lambda v: not v or _two_shares(v))
    )
    warm_start: bool = True
    weak_videos: bool = True


def _two_shares(value: tuple[float, ...]) -> bool:
    return len(value) == 2 and rising_shares(value)
