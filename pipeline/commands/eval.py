"""Score detections against annotations: mean average precision per tIoU and per class.

Both files are ActivityNet-style JSON. tIoU thresholds are 0.1 to 0.9 in steps of 0.1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--predictions", required=True, type=Path, help="results file to score")
    parser.add_argument("--annotations", required=True, type=Path, help="the ground truth")
    parser.add_argument("--subset", default="test", help="split to score (default: test)")
    parser.add_argument(
        "--other-videos",
        default="wrong",
        choices=("wrong", "drop"),
        help="predictions for videos outside the split: false alarms, as in public evaluators "
        "(default), or left out",
    )
    parser.add_argument("--per-class", action="store_true", help="also show every class")
    parser.add_argument("--json", action="store_true", help="the scores as JSON")


def execute(args: argparse.Namespace) -> int:
    """Print the scores."""
    from workflows.evaluate import evaluate_file

    report = evaluate_file(
        args.predictions, args.annotations, subset=args.subset, other_videos=args.other_videos
    )
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print(report.format_table(per_class=args.per_class))
    return 0
