"""Damaged files: ok with coverage, partial with coverage, or a typed failure. Nothing else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures.media import Zoo
from tests.torture import sized
from tests.torture.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
CONTAINERS = (
    "constant.mp4",
    "h264.mkv",
    "vp9_opus.webm",
    "plain.ts",
    "mpeg4.avi",
    "fragmented.mp4",
)
CASES = [
    (container, mutation, number)
    for container in CONTAINERS
    for mutation in MUTATIONS
    for number in range(sized(1, 18))  # in full 6 * 4 * 18 = 432 files
]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


def extract_in_child(path: Path) -> dict[str, Any]:
    """What a process of its own says of a file; it must neither crash nor hang."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.run(
        [sys.executable, "-m", "tests.torture.one_file", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=LIMIT_S,
    )
    assert child.returncode == 0, f"{path.name}: exit {child.returncode}: {child.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("container", "mutation", "number"), CASES)
def test_damage_ends_in_coverage_or_a_typed_failure(
    zoo: Zoo, tmp_path: Path, container: str, mutation: str, number: int
) -> None:
    rng = random.Random(f"{container} {mutation} {number}")
    whole = bytearray(zoo[container].path.read_bytes())
    path = tmp_path / f"{mutation}{number}{Path(container).suffix}"
    path.write_bytes(MUTATIONS[mutation](whole, rng))
    found = extract_in_child(path)
    if found["outcome"] == "failed":
        assert found["reason"].strip()
        return
    assert found["outcome"] in ("done", "partial")
    assert found["steps"] == found["expected_steps"] >= 1
    covered = min(found["coverage"].values())
    if found["outcome"] == "partial":
        assert covered < 0.99 and found["coverage"]
        return
    # Whole, it says: then all that the file promises must be there, but for a frame of the grid.
    assert covered >= 0.99 or (1 - covered) * found["duration"] <= 1 / 16
    if found["promised"] is not None:
        assert found["duration"] >= 0.98 * found["promised"]


def test_the_damage_is_real_and_the_undamaged_files_are_whole(zoo: Zoo, tmp_path: Path) -> None:
    """Without this, a lane in which everything fails would look like one that passes."""
    for container in CONTAINERS[: sized(2, len(CONTAINERS))]:
        found = extract_in_child(zoo[container].path)
        assert found["outcome"] == "done", container
    data = bytes(range(256)) * 40
    for name, mutate in MUTATIONS.items():
        assert bytes(mutate(bytearray(data), random.Random(1))) != data, name
