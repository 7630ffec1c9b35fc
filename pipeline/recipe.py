"""What a recipe holds: one frozen dataclass for each section of the YAML file.

Each field carries its limits as metadata, so that `pipeline.config` can check a whole file and
report everything that is wrong at once. Defaults are those of the LoCo reconstruction on the
16 fps, 16-frame, stride-4 grid; the values that the paper leaves open are arguments of
`model.loco.LoCo` and appear here under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.recipe_fields import (
    Limit,
    at_least,
    below,
    between,
    choice,
    limited,
    named,
    positive,
    rising_shares,
)
from pipeline.recipe_weak import ClaspConfig, LocaliseConfig, SemiWeakConfig

METHODS = ("loco", "clasp")
FUSIONS = ("dynamic", "fixed", "global", "none")
RESIDUALS = ("query", "kv")
CORRESPONDENCES = ("learnable", "fixed", "softened", "diagonal", "none")
TARGETS = ("raw", "normalised")
INTERVALS = ("giou", "diou")
POSITIONS = ("continued", "stretched", "none")
BANDS = ("half", "full", "window")
ADAPTATIONS = ("kv", "separate", "query")
DECODER_ATTENTIONS = ("local", "global")
DIRECTIONS = ("mean", "sum")
SCOPES = ("video", "batch")
UNITS = ("steps", "video")
READERS = ("auto", "decord", "ffmpeg")
OPTIMISERS = ("adamw", "adam")
JUDGED = ("averaged", "raw")
PRECISIONS = ("fp32", "bf16")


def _ratios(value: tuple[float, ...]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= 1


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What there is to learn from.

    Attributes:
        annotations: ActivityNet-style JSON file; for CLASP also a CSV of ``file,label[,label...]``.
        features: Feature store; the extract stage fills it.
        videos: Inputs of the extract stage, as for ``pipeline extract``; none where the store
            comes from elsewhere.
        train: Subset to learn from.
        validation: Subset that chooses the best epoch; empty for none.
        test: Subset that the eval stage measures on; empty for none.
        bad_rows: ``error`` refuses a file with impossible annotations, ``drop`` leaves those
            rows out and says how many.
        missing: ``error`` refuses to go on when annotated videos have no features, ``skip``
            leaves them out and says how many.
        modalities: ``both``, or the one to use; the other counts as missing in every video.
    """

    annotations: Path
    features: Path
    videos: tuple[Path, ...] = ()
    train: str = named("train")
    validation: str = "validation"
    test: str = "test"
    bad_rows: str = choice("error", ("error", "drop"))
    missing: str = choice("skip", ("error", "skip"))
    modalities: str = choice("both", ("both", "vision", "audio"))


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """How features are made.

    Attributes:
        name: A row of the table of backbones.
        reader: Video reader.
        scheduler: ``serial``, ``dask``, or the address of a Dask cluster.
        workers: Number of processes for ``dask``; 0 leaves the choice to the program.
    """

    name: str = named("lite")
    reader: str = choice("auto", READERS)
    scheduler: str = named("serial")
    workers: int = at_least(0, 0)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network; each value but the first is an argument of `model.loco.LoCo`.

    Attributes:
        method: ``loco``, trained on segments, or ``clasp``, trained on the classes of whole videos.
            CLASP takes ``channels``, ``heads``, ``unimodal_blocks``, ``drop_path``,
            ``max_seq_len``, ``positions`` and ``embedding_layers`` from here, the rest from the
            section ``clasp``.
        channels: Width of the two streams.
        heads: Attention heads.
        unimodal_blocks: Self-attention blocks of each stream before the pyramid.
        levels: Levels of the pyramid.
        window: Base window of the pyramid's attention, in steps of a level.
        fusion: ``dynamic`` (LoCo), ``fixed`` windows, ``global`` attention, ``none``.
        residual: Which stream the residual carries: ``query`` or ``kv``.
        decoder_channels: Width of decoder and heads.
        decoder_blocks: Light blocks after the reduction.
        drop_path: Probability of stochastic depth.
        max_seq_len: Longest sequence in training, and length of the position table, in steps.
        positions: Beyond ``max_seq_len``: ``continued`` or ``stretched``; ``none`` for no
            positions at all.
        embedding_layers: Convolutions of the embedding.
        band: Reach of local attention: ``half``, ``full`` or ``window``.
        adaptation: What chooses dynamic windows: ``kv``, ``separate`` or ``query``.
        decoder_attention: ``local`` or ``global``.
        decoder_expansion: Width of the decoder's feed-forward nets over ``decoder_channels``.
        distance_bias: Distances at the start of training, in strides.
        decoder_window: The decoder's local attention looks half of it to either side; 0 takes
            ``window``.
        class_aware: Each class has distances of its own; without, all classes of a point share one
            pair.
        prior: Probability of a class at a point at the start of training.
    """

    method: str = choice("loco", METHODS)
    channels: int = at_least(512, 2)
    heads: int = at_least(4, 1)
    unimodal_blocks: int = at_least(2, 0)
    levels: int = between(6, 1, 12)
    window: int = at_least(8, 2)
    fusion: str = choice("dynamic", FUSIONS)
    residual: str = choice("query", RESIDUALS)
    decoder_channels: int = at_least(512, 1)
    decoder_blocks: int = at_least(1, 0)
    drop_path: float = below(0.1, 0, 1)
    max_seq_len: int = at_least(256, 8)
    positions: str = choice("continued", POSITIONS)
    embedding_layers: int = at_least(2, 1)
    band: str = choice("half", BANDS)
    adaptation: str = choice("kv", ADAPTATIONS)
    decoder_attention: str = choice("local", DECODER_ATTENTIONS)
    decoder_expansion: int = at_least(1, 1)
    distance_bias: float = at_least(2.0, 0)
    decoder_window: int = at_least(0, 0)
    class_aware: bool = True
    prior: float = limited(0.01, Limit("above 0 and below 1", lambda value: 0 < value < 1))


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The terms of Eq 9; each value is an argument of `model.loco.LoCo`.

    Attributes:
        correspondence: Variant of LCC, or ``none``.
        correspondence_weight: Lambda.
        correspondence_targets: ``raw`` or ``normalised``.
        sigma: Initial deviation of LCC, in ``sigma_unit``.
        interval: ``giou`` or ``diou``.
        normaliser: Initial count of positive points.
        correspondence_directions: ``mean`` or ``sum`` of LCC's two directions.
        softened_scope: Where ``softened`` spreads its mass: ``video`` or ``batch``.
        smoothing: Mass that ``softened`` takes from the diagonal.
        temperature: Initial temperature of LCC.
        force_nearest: Train on events that lie between all points, too.
        focal_alpha: Weight of positives in the focal loss; negative for none.
        focal_gamma: Its exponent.
        label_smoothing: Share by which class targets move towards 1 / (classes + 1).
        interval_weight: Of the IoU loss in the total.
        normaliser_momentum: Of the running count of positive points.
        sigma_unit: Of LCC's deviation: ``steps``, or ``video``, shares of the video's length.
        least_sigma: Smallest deviation of LCC, in steps; the largest is an eighth of
            ``model.max_seq_len``.
    """

    correspondence: str = choice("learnable", CORRESPONDENCES)
    correspondence_weight: float = at_least(0.1, 0)
    correspondence_targets: str = choice("raw", TARGETS)
    sigma: float = positive(1.0)
    interval: str = choice("giou", INTERVALS)
    normaliser: float = positive(250.0)
    correspondence_directions: str = choice("mean", DIRECTIONS)
    softened_scope: str = choice("video", SCOPES)
    smoothing: float = below(0.1, 0, 1)
    temperature: float = between(0.07, 0.001, 0.5)
    force_nearest: bool = False
    focal_alpha: float = between(0.25, -1, 1)
    focal_gamma: float = at_least(2.0, 0)
    label_smoothing: float = below(0.0, 0, 1)
    interval_weight: float = at_least(1.0, 0)
    normaliser_momentum: float = below(0.9, 0, 1)
    sigma_unit: str = choice("steps", UNITS)
    least_sigma: float = positive(0.3)


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Gradient steps with linear warm-up, then cosine, both by iteration.

    Attributes:
        optimiser: ``adamw``, or ``adam``, whose weight decay is part of the gradient.
        lr: Peak learning rate.
        weight_decay: On matrices and convolutions only.
        warmup_epochs: Epochs of linear warm-up.
        epochs: All epochs, warm-up included.
        min_lr: Where the cosine ends.
        clip: Largest L2 norm of the gradient; 0 for none.
        ema: Decay of the averaged weights, which are the ones that are saved and tested; 0 makes
            them the weights themselves.
        ema_warmup: Start with a short memory, so that the mean of a short run forgets its random
            start; the public code keeps it.
        window_lr: Share of the learning rate at which dynamic windows learn their size and place.
    """

    optimiser: str = choice("adamw", OPTIMISERS)
    lr: float = positive(1e-4)
    weight_decay: float = at_least(1e-4, 0)
    warmup_epochs: int = at_least(5, 0)
    epochs: int = at_least(45, 1)
    min_lr: float = at_least(1e-8, 0)
    clip: float = at_least(1.0, 0)
    ema: float = below(0.999, 0, 1)
    ema_warmup: bool = True
    window_lr: float = positive(1.0)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How the data is shown.

    Attributes:
        batch_size: Videos of a batch.
        drop_last: Leave out the last batch of an epoch where it is short.
        crop: Shortest and longest share of a video that is shown.
        keep: Share of an event that must lie in the crop for it to be kept.
        crop_margin: Steps by which events may reach beyond the crop, to either side.
        seed: Decides initial weights, order, crops and stochastic depth.
        validate_every: Epochs between validations; the last epoch is always validated.
        validate_on: Whose score chooses the best epoch: the ``averaged`` weights, which are saved
            and tested, or the ``raw`` ones, as in the public code.
        cache_gb: Features are kept in memory when all of them take no more than this.
        tensorboard: Also write the training log as TensorBoard event files.
        precision: ``bf16`` runs the network in bfloat16; weights and losses stay float32.
        compile: Let torch compile the network: minutes before the first step, faster steps after.
    """

    batch_size: int = at_least(16, 1)
    drop_last: bool = False
    crop: tuple[float, ...] = limited((0.9, 1.0), Limit("two shares in (0, 1], rising", _ratios))
    keep: float = between(0.5, 0, 1)
    crop_margin: float = at_least(0.0, 0)
    seed: int = at_least(1234567891, 0)
    validate_every: int = at_least(1, 1)
    validate_on: str = choice("averaged", JUDGED)
    cache_gb: float = at_least(2.0, 0)
    tensorboard: bool = False
    precision: str = choice("fp32", PRECISIONS)
    compile: bool = False


@dataclass(frozen=True, slots=True)
class InferConfig:
    """From points to events; see `model.decoding.DecodingSettings`.

    Attributes:
        min_score: Probability below which a candidate is dropped.
        per_level: Candidates kept on each level.
        min_length: Steps below which an interval is dropped.
        sigma: Of Soft-NMS.
        max_per_class: Detections kept of a class.
        max_total: Detections kept of a video.
        chunk: Steps that are looked at at once; longer videos slide.
        overlap: Steps that neighbouring pieces share.
    """

    min_score: float = below(0.001, 0, 1)
    per_level: int = at_least(2000, 1)
    min_length: float = at_least(0.05, 0)
    sigma: float = positive(0.4)
    max_per_class: int = at_least(100, 1)
    max_total: int = at_least(100, 1)
    chunk: int = at_least(768, 64)
    overlap: int = at_least(256, 0)


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """What is measured.

    Attributes:
        tiou: Thresholds of the temporal IoU, rising.
    """

    tiou: tuple[float, ...] = limited(
        tuple(n / 10 for n in range(1, 10)), Limit("rising thresholds in (0, 1]", rising_shares)
    )


@dataclass(frozen=True, slots=True)
class DetectConfig:
    """What the detect stage works on.

    Attributes:
        inputs: As for ``pipeline detect``; none skips the stage.
        formats: Formats to write.
        min_score: Weaker events are left out; negative takes the threshold that was best on
            validation.
    """

    inputs: tuple[Path, ...] = ()
    formats: tuple[str, ...] = ("json",)
    min_score: float = between(-1.0, -1, 1)


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Where results go.

    Attributes:
        folder: Receives checkpoints, log, scores and detections.
        licence: Written into the card of the checkpoint.
    """

    folder: Path
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe; all paths are absolute.

    Attributes:
        data: What there is to learn from.
        output: Where results go.
        backbone: How features are made.
        model: The network.
        loss: LoCo's losses.
        clasp: What CLASP has of its own.
        localise: From CLASP's activation to events.
        semi_weak: Training on few segments.
        optim: How it is trained.
        train: How the data is shown.
        infer: From points to events.
        eval: What is measured.
        detect: What the detect stage works on.
        source: The file it was read from; None when it was made in Python.
        overrides: What was changed in it, as for ``--set``.
    """

    data: DataConfig
    output: OutputConfig
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    clasp: ClaspConfig = field(default_factory=ClaspConfig)
    localise: LocaliseConfig = field(default_factory=LocaliseConfig)
    semi_weak: SemiWeakConfig = field(default_factory=SemiWeakConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    infer: InferConfig = field(default_factory=InferConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    source: Path | None = field(default=None, compare=False, metadata={"internal": True})
    overrides: tuple[str, ...] = field(default=(), compare=False, metadata={"internal": True})

    def to_json(self) -> dict[str, Any]:
        """Every value, defaults included, as plain JSON values."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in fields(self)
            if "internal" not in item.metadata
        }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
