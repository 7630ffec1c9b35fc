"""Find the events in videos; no configuration needed.

Without --format the events are shown as a table. With it, files are written: one per video and
format into the folder --out (default: the current one), or to standard output with --out -.
Without --model, a training-free detector reports what picture and sound agree on: by default the
classes that two small embedded nets know, and with --labels whatever is named there, in free text,
by a CLIP-like and a CLAP-like encoder (downloaded on first use; it is said which).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import MediaError, UsageError
from pipeline.formats import FORMATS, format_writer, write, write_folder

if TYPE_CHECKING:
    from pipeline.core.events import Detections
    from workflows.detection.run import Detector
    from workflows.inputs import MediaItem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="as for `pipeline extract`")
    parser.add_argument("--model", type=Path, default=None, help="a trained checkpoint")
    parser.add_argument(
        "--method",
        default=None,
        metavar="NAME",
        help="without --model: agreement, clasp or open-vocabulary; default: open-vocabulary with "
        "--labels, else agreement",
    )
    parser.add_argument(
        "--backbone",
        default=None,
        metavar="NAME",
        help="without --model: its encoders, for open vocabulary hf:VISION+AUDIO",
    )
    parser.add_argument(
        "--format",
        default=None,
        metavar="F[,F]",
        help=f"formats to write: {', '.join(FORMATS)}",
    )
    parser.add_argument("--out", default=None, help="folder to write to, or - (standard output)")
    parser.add_argument("--min-score", type=float, default=None, help="leave out weaker events")
    parser.add_argument(
        "--labels",
        default=None,
        metavar="A,B",
        help="look for these; of a model, or --method agreement or clasp, report only these "
        "classes; quote a name that holds a comma",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument(
        "--weights-dir", type=Path, default=None, help="where weights are looked for first"
    )
    parser.add_argument(
        "--offline", action="store_true", help="never touch the network (or PIPELINE_OFFLINE=1)"
    )


def execute(args: argparse.Namespace) -> int:
    """Detect in every input; one that fails is reported and the others still done."""
    from workflows.detection.run import load_detector
    from workflows.inputs import find_media

    formats = _formats(args.format, args.out)
    items = find_media(args.inputs)
    detector = load_detector(
        args.model,
        method=args.method,
        backbone=args.backbone,
        device=args.device,
        labels=None if args.labels is None else _labels(args.labels),
        min_score=args.min_score,
        weights_dir=args.weights_dir,
        offline=args.offline or None,
    )
    found, failed = _detect_all(detector, items)
    if not formats:
        for detections in found:
            print(render(detections))
    elif args.out == "-":
        write(found, formats[0], sys.stdout)
    else:
        for path in write_folder(found, formats, Path(args.out or ".")):
            print(path, file=sys.stderr)
    return 1 if failed else 0


def render(detections: Detections) -> str:
    """One video's events as a table for a terminal."""
    lines = [f"{detections.video}  ({detections.duration:.1f} s, {detections.detector})"]
    lines += [f"  note: {note}" for note in detections.notes]
    if not detections.events:
        return "\n".join([*lines, "  no events"])
    width = max(5, *(len(event.label) for event in detections.events))
    lines.append(f"  {'start':>9} {'end':>9}  {'class':<{width}} {'score':>6}")
    lines += [
        f"  {event.start:>9.2f} {event.end:>9.2f}  {event.label:<{width}} {event.score:>6.3f}"
        for event in detections.events
    ]
    return "\n".join(lines)


def _formats(names: str | None, out: str | None) -> list[str]:
    """The formats asked for, all known, and fit for where they shall go."""
    formats = [name.strip() for name in names.split(",")] if names else []
    for name in formats:
        format_writer(name)
    if out == "-" and len(formats) != 1:
        raise UsageError(
            f"--out - writes one format, not {len(formats)}", hint="name it with --format"
        )
    if out not in (None, "-") and not formats:
        raise UsageError("--out needs --format", hint="add for example --format json,html")
    return formats


def _labels(text: str) -> list[str]:
    """Class names, comma-separated; one that holds a comma is quoted, as in a CSV file."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]


def _detect_all(detector: Detector, items: Sequence[MediaItem]) -> tuple[list[Detections], int]:
    """Events of every readable video, and how many could not be read."""
    found = []
    for item in items:
        try:
            found.append(detector(item.path))
        except MediaError as error:
            print(f"pipeline: {error}", file=sys.stderr)
    return found, len(items) - len(found)
