"""The command line: parse, dispatch, and turn errors into one sentence and an exit code.

Exit codes: 0 all done, 1 some items failed, 2 usage or configuration, 3 environment (ffmpeg,
weights, device), 4 nothing matched, 130 interrupted.

Nothing heavy is imported here: each command loads what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from pipeline import __version__
from pipeline.core.errors import PipelineError
from pipeline.core.terminal import plain_output

# Command -> one line for the overview. Each lives in pipeline/commands/<name>.py.
COMMANDS: dict[str, str] = {
    "detect": "find the events in videos; no configuration needed",
    "extract": "turn videos into a feature store",
    "run": "run the stages of a recipe: extract, train, eval, detect",
    "eval": "score detections against annotations (mAP)",
    "convert": "turn files of events into other formats",
    "report": "show training, scores and inner workings of runs as an HTML page",
    "study": "compare variants of a recipe over several seeds",
    "model": "count a network's parameters and operations",
    "models": "list, fetch and verify the weights of backbones",
    "features": "look after feature stores; convert feature files of the field",
    "data": "check annotations, and features against them",
    "probe": "show what a media file holds and how its clock runs",
    "doctor": "check this machine: packages, ffmpeg, weights, devices",
    "demo": "make a small labelled data set and run everything on it",
    "bench": "measure speed, memory and recognition on this machine",
}
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as an argparse parser."""
    parser = argparse.ArgumentParser(
        prog="pipeline",
        description="Dense audio-visual event detection: from a raw video to its events.",
        epilog="Exit codes: 0 all done, 1 some items failed, 2 usage, 3 environment, "
        "4 nothing matched, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"pipeline {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        module = import_module(f"pipeline.commands.{name}")
        sub = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument(
            "--debug", action="store_true", help="show tracebacks (or set PIPELINE_DEBUG=1)"
        )
        module.add_arguments(sub)
        sub.set_defaults(execute=module.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; those of the process when omitted.

    Returns:
        The exit code.
    """
    with plain_output():
        return _run(build_parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    debug = args.debug or os.environ.get("PIPELINE_DEBUG", "") not in ("", "0")
    try:
        return int(args.execute(args))
    except PipelineError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; what was finished is kept")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last line of defence: a user never sees a bare traceback
        if debug:
            raise
        _complain(
            f"internal error: {type(error).__name__}: {error}"
            " (run again with --debug and report the traceback)"
        )
        return 1


def entry() -> NoReturn:
    """Entry point of the ``pipeline`` command."""
    sys.exit(main())


def _complain(message: str) -> None:
    print(f"pipeline: {message}", file=sys.stderr)
