"""Check this machine: packages, ffmpeg, weights and their hashes, devices.

Exit code 0 when everything that is needed is there, 3 when something is missing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

MARKS = {"ok": "ok  ", "warning": "warn", "missing": "MISS"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON array")


def execute(args: argparse.Namespace) -> int:
    """Print the findings."""
    from pipeline import __version__
    from pipeline.core.errors import EnvironmentFault
    from pipeline.doctor import examine

    findings = examine()
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(f"pipeline {__version__}")
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            print(f"  {MARKS[finding.verdict]}  {finding.subject:<{width}}  {finding.detail}")
    missing = [finding.subject for finding in findings if finding.verdict == "missing"]
    return EnvironmentFault.exit_code if missing else 0
