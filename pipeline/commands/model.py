"""What a network costs: parameters, and operations of one forward pass.

--config takes a recipe, --model a checkpoint, --study a study file, of which each variant gets a
line; without any of them it is LoCo as in the recipe for UnAV-100. The widths of the features come
from the recipe's backbone and the number of classes from its annotation file (100 where there is
none), unless they are given.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflows.cost import CostReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, help="a recipe, a YAML file")
    source.add_argument("--model", type=Path, help="a checkpoint, a .safetensors file")
    source.add_argument("--study", type=Path, help="a study file: one line for each variant")
    parser.add_argument("--steps", type=_count, default=256, help="steps of the video")
    parser.add_argument("--vision-dim", type=_count, help="width of the picture features")
    parser.add_argument("--audio-dim", type=_count, help="width of the sound features")
    parser.add_argument("--classes", type=_count, help="number of classes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one value of the recipe, for example --set model.window=16",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def execute(args: argparse.Namespace) -> int:
    """Print the figures."""
    report = _report(args)
    print(json.dumps(report.to_json(), indent=2) if args.json else report.format_table())
    return 0


def _report(args: argparse.Namespace) -> CostReport:
    from pipeline.config import load_recipe
    from pipeline.core.errors import UsageError
    from workflows.cost import (
        PUBLIC_SIZES,
        Sizes,
        cost_of_checkpoint,
        cost_of_recipes,
        recipes_of_study,
        shipped_recipe,
    )

    sizes = Sizes(args.vision_dim, args.audio_dim, args.classes)
    if args.model is not None:
        if args.overrides or sizes != Sizes():
            raise UsageError(
                f"{args.model} has the sizes that it was trained with",
                hint="give --set, --vision-dim, --audio-dim and --classes with --config",
            )
        return cost_of_checkpoint(args.model, steps=args.steps)
    if args.study is not None:
        recipes = recipes_of_study(args.study, overrides=args.overrides)
        return cost_of_recipes(recipes, sizes, steps=args.steps)
    path = args.config
    if path is None:
        path = shipped_recipe("unav100_onepeace")
        sizes = sizes.filled_from(PUBLIC_SIZES)
    recipes = {"total": load_recipe(path, overrides=args.overrides)}
    return cost_of_recipes(recipes, sizes, steps=args.steps)
