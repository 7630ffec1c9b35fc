"""Run the stages of a recipe, in order: extract, train, eval, detect.

A stage whose inputs have not changed since it last ran is skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

STAGES = ("extract", "train", "eval", "detect", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--stage", default="all", choices=STAGES)
    parser.add_argument("--config", required=True, type=Path, help="the recipe, a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one value of the recipe, for example --set optim.lr=1e-4",
    )
    parser.add_argument(
        "--strong-fraction",
        default=None,
        metavar="SHARE",
        help="share of training videos whose segments are read; short for --set "
        "semi_weak.strong_fraction=SHARE",
    )
    parser.add_argument("--resume", action="store_true", help="continue a training that stopped")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument(
        "--weights-dir", type=Path, default=None, help="where weights are looked for first"
    )
    parser.add_argument(
        "--offline", action="store_true", help="never touch the network (or PIPELINE_OFFLINE=1)"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the stages and print what each did."""
    from pipeline.config import load_recipe
    from workflows.stages import run_stages

    overrides = list(args.overrides)
    if args.strong_fraction is not None:
        overrides.append(f"semi_weak.strong_fraction={args.strong_fraction}")
    recipe = load_recipe(args.config, overrides=overrides)
    report = run_stages(
        recipe,
        stage=args.stage,
        resume=args.resume,
        device=args.device,
        weights_dir=args.weights_dir,
        offline=args.offline or None,
    )
    print(report.format_table())
    return report.exit_code
