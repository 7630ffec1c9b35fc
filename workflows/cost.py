"""What recipes, checkpoints and studies cost: parameters and operations, beside public systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extractors.preview import preview_spec
from extractors.spec import BackboneSpec
from extractors.weights.watch import Silent
from model.checkpoint import read_card
from model.cost import NOT_COUNTED, PUBLIC, PUBLIC_DIM, PUBLIC_STEPS, Cost, PartCost, measure_cost
from pipeline.config import load_recipe
from pipeline.core.errors import UsageError
from pipeline.recipe import Recipe
from workflows.annotations import load_annotations
from workflows.study.file import load_study
from workflows.training.build import architecture_of

PUBLIC_CLASSES = 100  # of UnAV-100, on which the public systems were counted


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides a network beside its recipe; None leaves it to the recipe's backbone and labels.

    Attributes:
        vision_dim: Width of the picture features.
        audio_dim: Width of the sound features.
        classes: Number of classes.
    """

    vision_dim: int | None = None
    audio_dim: int | None = None
    classes: int | None = None

    def filled_from(self, other: Sizes) -> Sizes:
        """These sizes, and those of another in place of what is None."""
        return Sizes(
            self.vision_dim or other.vision_dim,
            self.audio_dim or other.audio_dim,
            self.classes or other.classes,
        )


PUBLIC_SIZES = Sizes(PUBLIC_DIM, PUBLIC_DIM, PUBLIC_CLASSES)


@dataclass(frozen=True, slots=True)
class CostRow:
    """One network.

    Attributes:
        name: As the table shows it.
        architecture: Arguments of `model.loco.LoCo`.
        cost: What it costs.
    """

    name: str
    architecture: Mapping[str, Any]
    cost: Cost


@dataclass(frozen=True, slots=True)
class CostReport:
    """Networks that are counted at one length.

    Attributes:
        steps: T of the video.
        rows: At least one network; all have the same sizes.
    """

    steps: int
    rows: tuple[CostRow, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether the figures of the public systems are at the same length and sizes."""
        sizes = [self.rows[0].architecture[name] for name in ("vision_dim", "audio_dim", "classes")]
        return [self.steps, *sizes] == [PUBLIC_STEPS, PUBLIC_DIM, PUBLIC_DIM, PUBLIC_CLASSES]

    def format_table(self) -> str:
        """For the terminal: a single network part by part, several with a line each."""
        sizes = self.rows[0].architecture
        lines = [
            f"one video of {self.steps} steps, {sizes['vision_dim']} + {sizes['audio_dim']} values "
            f"a step, {sizes['classes']} classes; 2 operations for a multiply-add",
            "",
            f"{'parameters':<28}{'in training':>12}{'in detection':>14}{'GFLOP':>10}",
        ]
        if len(self.rows) == 1:
            lines += [_part_line(part) for part in self.rows[0].cost.parts]
        lines += [
            _line(row.name, row.cost.parameters, row.cost.inference_parameters, row.cost.flops)
            for row in self.rows
        ]
        lines += ["", f"public systems, {PUBLIC_STEPS} steps, {PUBLIC_DIM} + {PUBLIC_DIM} values:"]
        lines += [_line(system.name, system.parameters, None, system.flops) for system in PUBLIC]
        if not self.is_comparable:
            lines.append("(not at this length and these sizes: do not compare)")
        lines += ["", f"not counted: {NOT_COUNTED}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "steps": self.steps,
            "networks": {
                row.name: {
                    "parameters": row.cost.parameters,
                    "inference_parameters": row.cost.inference_parameters,
                    "flops": row.cost.flops,
                    "parts": [asdict(part) for part in row.cost.parts],
                    "architecture": dict(row.architecture),
                }
                for row in self.rows
            },
            "public": [
                {**asdict(system), "steps": PUBLIC_STEPS, "dim": PUBLIC_DIM} for system in PUBLIC
            ],
            "comparable": self.is_comparable,
            "not_counted": NOT_COUNTED,
        }


def shipped_recipe(name: str) -> Path:
    """A recipe that comes with the program."""
    return Path(__file__).parent / "recipes" / f"{name}.yaml"


def recipes_of_study(path: Path, *, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """The recipe of each variant of a study, by name.

    Raises:
        ConfigError: Anything is wrong with the study or a recipe.
    """
    study = load_study(path, overrides=overrides)
    return {
        variant.name: load_recipe(study.base, overrides=[*study.overrides, *variant.overrides])
        for variant in study.variants
    }


def cost_of_recipes(recipes: Mapping[str, Recipe], sizes: Sizes, *, steps: int) -> CostReport:
    """Count the networks of some recipes, by name.

    Raises:
        UsageError: A recipe's backbone is not known and its sizes are not given; or a recipe is of
            another method than LoCo.
        ConfigError: The annotation file is there and cannot be read.
    """
    return _report({name: _architecture(recipe, sizes) for name, recipe in recipes.items()}, steps)


def cost_of_checkpoint(path: Path, *, steps: int) -> CostReport:
    """Count the network of a checkpoint; only its card is read.

    Raises:
        CheckpointError: There is no card, or it is damaged.
        UsageError: The checkpoint is of another method than LoCo.
    """
    card = read_card(path)
    _refuse_other_methods(str(path), card.method)
    return _report({"total": card.architecture}, steps)


def _report(architectures: Mapping[str, Mapping[str, Any]], steps: int) -> CostReport:
    rows = [
        CostRow(name, architecture, measure_cost(architecture, steps=steps))
        for name, architecture in architectures.items()
    ]
    return CostReport(steps, tuple(rows))


def _architecture(recipe: Recipe, sizes: Sizes) -> dict[str, Any]:
    _refuse_other_methods(str(recipe.source), recipe.model.method)
    vision, audio = sizes.vision_dim, sizes.audio_dim
    if vision is None or audio is None:
        spec = _spec_of(recipe)
        vision, audio = vision or spec.vision.dim, audio or spec.audio.dim
    classes = sizes.classes
    if classes is None:
        labels = recipe.data.annotations
        classes = PUBLIC_CLASSES
        if labels.exists():
            classes = len(load_annotations(labels, bad_rows="drop").classes)
    return architecture_of(recipe, vision_dim=vision, audio_dim=audio, classes=classes)


def _refuse_other_methods(name: str, method: str) -> None:
    if method != "loco":
        raise UsageError(
            f"{name} is of the method {method!r}, whose parts are not counted",
            hint="give a recipe or a checkpoint of LoCo",
        )


def _spec_of(recipe: Recipe) -> BackboneSpec:
    try:
        return preview_spec(recipe.backbone.name, watch=Silent())  # widths need no weights
    except UsageError as error:
        raise UsageError(
            f"the widths of the features are not known: {error.message}",
            hint="give --vision-dim and --audio-dim",
        ) from error


def _part_line(part: PartCost) -> str:
    kept = 0 if part.training_only else part.parameters
    return _line(part.name, part.parameters, kept, part.flops)


def _line(name: str, training: float, detection: float | None, flops: float) -> str:
    shown = f"{detection / 1e6:.2f} M" if detection is not None else ""
    return f"{name:<28}{training / 1e6:>10.2f} M{shown:>14}{flops / 1e9:>10.2f}"
