"""Turn videos into a feature store.

Inputs are files, folders (searched recursively), globs, @list.txt, or .csv and .jsonl manifests.
A second run with the same --out continues: finished videos are skipped, changed ones redone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--out", required=True, type=Path, help="folder of the feature store")
    parser.add_argument(
        "--backbone",
        default="lite",
        help="frozen encoders: a name of the list (pipeline models), or hf:<vision>+<audio>; with "
        "unav- in front, on UnAV-100's grid of 25 fps, 24 frames every 8 (default: lite)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument(
        "--weights-dir", type=Path, default=None, help="where weights are looked for first"
    )
    parser.add_argument(
        "--offline", action="store_true", help="never touch the network (or PIPELINE_OFFLINE=1)"
    )
    parser.add_argument(
        "--scheduler",
        default=None,
        help="serial, dask (this machine), or the address of a Dask scheduler; default: serial",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        help="processes with --scheduler dask; with an address, how many workers may come",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=None,
        metavar="N",
        help="videos that each process has in flight (default: on a GPU 4, or 12 beside as many "
        "cores; 2 on this CPU, else 1)",
    )
    parser.add_argument("--reader", default="auto", choices=("auto", "decord", "ffmpeg"))
    parser.add_argument("--limit", type=int, default=None, help="stop after this many videos")
    parser.add_argument("--overwrite", action="store_true", help="redo videos that are finished")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try failed and quarantined videos again"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="without progress in a video, after which its process is taken for hung and ended",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def execute(args: argparse.Namespace) -> int:
    """Extract, print the table, and return 1 when a video failed."""
    from workflows.extraction.run import extract

    report = extract(
        args.inputs,
        args.out,
        backbone=args.backbone,
        device=args.device,
        scheduler=args.scheduler,
        workers=args.workers,
        reader=args.reader,
        limit=args.limit,
        at_once=args.at_once,
        overwrite=args.overwrite,
        retry_failed=args.retry_failed,
        dry_run=args.dry_run,
        weights_dir=args.weights_dir,
        offline=args.offline or None,
        patience=args.patience,
        announce=lambda link: print(f"dashboard: {link}", file=sys.stderr),
    )
    print(json.dumps(report.to_json(), indent=2) if args.json else report.format_table())
    return report.exit_code
