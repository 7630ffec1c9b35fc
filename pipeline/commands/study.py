"""Train and measure the variants of a recipe over several seeds, and print their table.

A study that was stopped goes on where it was; finished runs are skipped. The table is written to
OUT/table.md, table.csv and table.json after each run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# glibc gives large blocks back to the system at once, and training takes them again a moment later:
# a quarter of its time on a CPU. Only processes that start later (--workers) heed these.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "134217728",
    "MALLOC_ARENA_MAX": "1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", required=True, type=Path, help="the study, a YAML file")
    parser.add_argument("--out", required=True, type=Path, help="folder of runs and table")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one value of the base recipe, or of the study's simulation section",
    )
    parser.add_argument(
        "--seeds", type=_numbers, metavar="N,N,...", help="in place of the study's seeds"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="run this variant or baseline only; may be repeated",
    )
    parser.add_argument(
        "--workers", type=_at_least_one, default=1, help="runs at once (default: 1)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")


def execute(args: argparse.Namespace) -> int:
    """Run the study and print its table."""
    from workflows.study.file import load_study
    from workflows.study.run import run_study

    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    study = load_study(args.config, overrides=args.overrides, seeds=args.seeds, only=args.only)
    report = run_study(
        study,
        args.out,
        device=args.device,
        workers=args.workers,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(report.format_table())
    return report.exit_code


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers: 0,1,2") from None


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
