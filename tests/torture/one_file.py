"""Extract one file into a store in a process of its own and say as JSON what came of it."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from extractors.media.probe import probe
from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY
from tests.torture.living import hollow_steps
from workflows.extraction.run import extract

MEMORY = 4 << 30  # bytes of data that this process, and each decoder it starts, may hold


def outcome(path: Path, out: Path) -> dict[str, Any]:
    """What extraction made of the file; an error that is not typed ends the process."""
    (row,) = extract([path], out, backbone=TOY).rows
    if row.outcome == "failed":
        return {"outcome": "failed", "reason": row.reason}
    store = FeatureStore.open(out)
    found = store.read(store.ids()[0])
    summary = found.summary
    return {
        "outcome": row.outcome,
        "coverage": dict(summary.coverage),
        "notes": list(summary.notes),
        "steps": found.steps,
        "duration": summary.duration,
        "expected_steps": found.grid.steps(summary.duration),
        "promised": probe(path).duration,
        "hollow": hollow_steps(found),
        "masked": {name: int((~found[f"{name}_mask"]).sum()) for name in ("vision", "audio")},
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    print(json.dumps(outcome(Path(sys.argv[1]), Path(sys.argv[2]))))
