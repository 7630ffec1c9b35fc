"""Turn files of events into other formats.

Reads json, csv, audacity, elan and activitynet (results and annotations), told apart by suffix and
content; writes every format of detect but curves, which files of events do not hold. What a format
does not keep is lost on the way: Audacity's labels have no scores, so that events read from them
score 1.

--out is a file that ends as the format's files do (one file with all videos), a folder (one file a
video), or - for standard output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.core.errors import UsageError
from pipeline.formats import FORMATS, READERS, format_writer, read, write, write_folder

TARGETS = tuple(name for name, writer in FORMATS.items() if not writer.of_curves)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--to", required=True, metavar="FORMATS", help=f"comma-separated: {', '.join(TARGETS)}"
    )
    parser.add_argument("--out", default=".", help="a file, a folder or - (default: this folder)")
    parser.add_argument(
        "--from", dest="source", metavar="FORMAT", help=f"of the files: {', '.join(READERS)}"
    )
    parser.add_argument("--min-score", type=float, metavar="S", help="leave out weaker events")


def execute(args: argparse.Namespace) -> int:
    """Read all files, then write all that they hold."""
    formats = [name.strip() for name in args.to.split(",")]
    writers = [format_writer(name) for name in formats]
    for writer in writers:
        if writer.of_curves:
            raise UsageError(
                f"files of events hold no curves to write as {writer.name}",
                hint=f"pipeline detect VIDEO --format {writer.name} writes them",
            )
    found = [entry for path in args.files for entry in read(path, args.source)]
    if args.min_score is not None:
        found = [entry.above(args.min_score) for entry in found]
    one_file = args.out == "-" or any(args.out.endswith(writer.suffix) for writer in writers)
    if one_file and len(formats) > 1:
        raise UsageError(
            f"--out {args.out} takes one format, not {len(formats)}", hint="give a folder"
        )
    if args.out == "-":
        write(found, formats[0], sys.stdout)
    elif one_file:
        write(found, formats[0], Path(args.out))
        print(args.out, file=sys.stderr)
    else:
        for path in write_folder(found, formats, Path(args.out)):
            print(path, file=sys.stderr)
    return 0
