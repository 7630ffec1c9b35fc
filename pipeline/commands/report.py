"""Show how a training went and what the model does inside, as one HTML page that works offline.

Curves of the training, scores, timelines of test videos, similarity of picture and sound, and the
windows that the model chose; for one run, or for several of the same data side by side:

    pipeline report runs/loco --against runs/without_lcc runs/global
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pipeline.core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, help="folder that `pipeline run` wrote")
    parser.add_argument(
        "--against",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="RUN",
        help="runs to put beside it; may be repeated",
    )
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the folder)")
    parser.add_argument(
        "--videos", type=int, default=4, metavar="N", help="test videos to show (default: 4)"
    )
    parser.add_argument(
        "--video", action="append", default=[], metavar="ID", help="show this one; may be repeated"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="measure similarity and windows on so many test videos (default: all)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def execute(args: argparse.Namespace) -> int:
    """Write the page and print the figures."""
    for name in ("videos", "limit"):
        if getattr(args, name) < 0:
            raise UsageError(f"--{name} {getattr(args, name)} is below 0", hint="give 0 or more")
    page = args.out or args.run / "report.html"
    if page.is_dir():
        raise UsageError(f"{page} is a folder", hint="give the name of a file with --out")

    from pipeline.core.atomic import write_text
    from pipeline.report.run_page import render_run_page
    from workflows.quality.report import report_runs

    view = report_runs(
        [args.run, *args.against],
        videos=args.videos,
        chosen=args.video,
        limit=args.limit,
        device=args.device,
    )
    write_text(page, render_run_page(view))
    if args.json:
        figures = {"runs": [run.to_json() for run in view.runs], "measured_videos": view.measured}
        print(json.dumps(figures, indent=2))
    else:
        print(view.format_table())
    print(page, file=sys.stderr)
    return 0
