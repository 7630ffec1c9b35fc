"""Extract one file in a process of its own and say as JSON what came of it."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from extractors.features import Features
from extractors.media.probe import probe
from extractors.stream import extract_features
from fixtures.backbones import toy
from pipeline.core.errors import MediaError

MEMORY = 4 << 30  # bytes of data that this process, and each decoder it starts, may hold


def outcome(path: Path) -> dict[str, Any]:
    """What extraction made of the file; an error that is not typed ends the process."""
    try:
        info = probe(path)
        found: Features = extract_features(path, toy())
    except MediaError as error:
        return {"outcome": "failed", "reason": error.reason}
    summary = found.summary
    return {
        "outcome": summary.status,
        "coverage": dict(summary.coverage),
        "notes": list(summary.notes),
        "steps": found.steps,
        "duration": summary.duration,
        "expected_steps": found.grid.steps(summary.duration),
        "promised": info.duration,
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    print(json.dumps(outcome(Path(sys.argv[1]))))
