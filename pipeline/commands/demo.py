"""Make a small labelled audio-visual data set and run everything on it.

Generates videos (moving things that sound, things that only sound, things that only move),
extracts features, trains LoCo and the models it is compared with, evaluates, and detects on a
long video. Only what is seen and heard at once is an event.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="a few films, two epochs: shows it works, no result"
    )
    parser.add_argument("--device", default="auto")


def execute(args: argparse.Namespace) -> int:
    """Run the demo and print its table."""
    from workflows.demo.run import run_demo

    report = run_demo(
        args.out,
        seed=args.seed,
        device=args.device,
        quick=args.quick,
        report=lambda part: print(f"demo: {part}", file=sys.stderr, flush=True),
    )
    print(report.format_table())
    return 0
