"""Score detections against annotations: mean average precision per tIoU and per class.

Both files are ActivityNet-style JSON. tIoU thresholds are 0.1 to 0.9 in steps of 0.1, as for
UnAV-100, unless others are given.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--predictions", type=Path, help="results file to score")
    parser.add_argument("--annotations", required=True, type=Path, help="the ground truth")
    parser.add_argument("--subset", default="test", help="split to score (default: test)")
    parser.add_argument(
        "--other-videos",
        default="wrong",
        choices=("wrong", "drop"),
        help="predictions for videos outside the split: false alarms, as in public evaluators "
        "(default), or left out",
    )
    parser.add_argument(
        "--bad-rows",
        default="error",
        choices=("error", "drop"),
        help="impossible rows of the annotated split: refuse the file (default), or leave them out",
    )
    parser.add_argument("--per-class", action="store_true", help="also show every class")
    parser.add_argument(
        "--bounds",
        action="store_true",
        help="show what answers that know part of the truth would score; needs no predictions",
    )
    parser.add_argument(
        "--tiou",
        type=_thresholds,
        default=None,
        metavar="T,T,...",
        help="thresholds, for example 0.5,0.75,0.95; 0.5:0.05:0.95 for ActivityNet's",
    )
    parser.add_argument("--json", action="store_true", help="the scores as JSON")


def _thresholds(text: str) -> tuple[float, ...]:
    """Rising thresholds from ``0.5,0.75`` or ``first:step:last``."""
    if ":" in text:
        first, step, last = map(float, text.split(":"))
        count = round((last - first) / step) + 1 if step > 0 else 0
        values = [round(first + step * number, 6) for number in range(count)]
    else:
        values = [float(part) for part in text.split(",")]
    if not values or values != sorted(set(values)) or not 0 < values[0] <= values[-1] <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of rising thresholds in (0, 1]")
    return tuple(values)


def execute(args: argparse.Namespace) -> int:
    """Print the scores."""
    from pipeline.core.errors import UsageError
    from workflows.annotations import load_truth
    from workflows.bounds import measure_bounds
    from workflows.evaluate import evaluate_file
    from workflows.metrics import TIOU

    if args.predictions is None and not args.bounds:
        raise UsageError("there is nothing to score", hint="give --predictions FILE, or --bounds")
    tiou = args.tiou or TIOU
    values: dict[str, Any] = {}
    tables = []
    if args.predictions is not None:
        report = evaluate_file(
            args.predictions,
            args.annotations,
            subset=args.subset,
            tiou=tiou,
            other_videos=args.other_videos,
            bad_rows=args.bad_rows,
        )
        values.update(report.to_json())
        tables.append(report.format_table(per_class=args.per_class))
    if args.bounds:
        labels = load_truth(args.annotations, subset=args.subset, bad_rows=args.bad_rows)
        bounds = measure_bounds(labels.subset(args.subset), tiou=tiou)
        values["bounds"] = bounds.to_json()["bounds"]
        notes = [] if args.predictions is not None else labels.notes  # scores have said them
        tables.append("\n".join([bounds.format_table(), *(f"note: {note}" for note in notes)]))
    print(json.dumps(values, indent=2) if args.json else "\n\n".join(tables))
    return 0
