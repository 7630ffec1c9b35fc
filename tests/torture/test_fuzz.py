"""Damaged files: ok with coverage, partial with coverage, or a typed failure. Nothing else.

What is said is compared with what was decoded: the sources move and sound in every step
(`tests.torture.living`), so a step that is still or silent under a mask that claims it was lost in
silence.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torture import sized
from tests.torture.living import FORMATS, SECONDS, make
from tests.torture.mutations import MUTATIONS
from tests.torture.stores import assert_sound

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
CASES = [
    (container, mutation, number)
    for place, container in enumerate(FORMATS)
    for kind, mutation in enumerate(MUTATIONS)
    # In full 10 * 4 * 14 = 560 files; reduced, every format meets two kinds of damage.
    for number in range(sized((place + kind) % 2, 14))
]
# A step next to a hole may hold half a window of repetitions or silence, on either side of it.
BORDER_STEPS = 3
# Of a file as a whole, whatever was decoded of it.
DOUBTS = ("the file was broken off: ", "the file's clock jumps by ")
# Some formats promise no length; what then tells of a file that is shorter than it was.
SHORT = "the file seems to end within "


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("living")


def extract_in_child(path: Path, out: Path) -> dict[str, Any]:
    """What a process of its own says of a file; it must neither crash nor hang."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.run(
        [sys.executable, "-m", "tests.torture.one_file", str(path), str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=LIMIT_S,
    )
    assert child.returncode == 0, f"{path.name}: exit {child.returncode}: {child.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def assert_nothing_is_hollow(found: dict[str, Any]) -> None:
    """No more steps claim something that is not there than lie at the borders of holes."""
    assert max(found["hollow"].values()) <= BORDER_STEPS, found


@pytest.mark.parametrize(("container", "mutation", "number"), CASES)
def test_damage_ends_in_coverage_or_a_typed_failure(
    sources: Path, tmp_path: Path, container: str, mutation: str, number: int
) -> None:
    rng = random.Random(f"{container} {mutation} {number}")
    whole = bytearray(make(container, sources).read_bytes())
    path = tmp_path / f"{mutation}{number}{Path(container).suffix}"
    path.write_bytes(MUTATIONS[mutation](whole, rng))
    found = extract_in_child(path, tmp_path / "store")
    store = assert_sound(tmp_path / "store")
    if found["outcome"] == "failed":
        assert found["reason"].strip()
        assert store.ids() == []
        return
    assert found["outcome"] in ("done", "partial")
    assert store.ids() == [path.name]
    assert found["steps"] == found["expected_steps"] >= 1
    assert_nothing_is_hollow(found)
    covered = min(found["coverage"].values())
    if found["outcome"] == "partial":
        assert found["coverage"] and found["notes"]
        assert covered < 0.99 or any(note.startswith(DOUBTS) for note in found["notes"])
        return
    # Whole, it says: then all that the file promises must be there, but for a frame of the grid or
    # some packets of sound.
    assert covered >= 0.99 or (1 - covered) * found["duration"] <= 0.125
    if found["promised"] is not None:
        assert found["duration"] >= 0.98 * found["promised"]
    # What it promises may be damaged, too, or nothing: what it held before is known here.
    told = any(note.startswith(SHORT) for note in found["notes"])
    assert told or found["duration"] >= 0.98 * SECONDS, found


def test_the_damage_is_real_and_the_undamaged_files_are_whole(
    sources: Path, tmp_path: Path
) -> None:
    """Without this, a lane in which everything fails would look like one that passes."""
    for container in list(FORMATS)[: sized(3, len(FORMATS))]:
        found = extract_in_child(make(container, sources), tmp_path / container)
        assert found["outcome"] == "done", container
        assert found["hollow"] == {"vision": 0, "audio": 0}
        assert found["masked"] == {"vision": 0, "audio": 0}
    data = bytes(range(256)) * 40
    for name, mutate in MUTATIONS.items():
        assert bytes(mutate(bytearray(data), random.Random(1))) != data, name


@pytest.mark.parametrize(
    "container",
    ["clip.mp4", "clip.mkv", "clip.ts", "clip.avi", "clip.mpg", "clip.flv", "clip.wmv"],
)
def test_a_lost_middle_is_never_called_whole(sources: Path, tmp_path: Path, container: str) -> None:
    """40 % of the bytes, blanked: the random stretches are too short to take seconds away."""
    whole = bytearray(make(container, sources).read_bytes())
    low, high = int(len(whole) * 0.3), int(len(whole) * 0.7)
    whole[low:high] = bytes(high - low)
    path = tmp_path / container
    path.write_bytes(whole)
    found = extract_in_child(path, tmp_path / "store")
    assert found["outcome"] == "partial"
    assert 0.4 < min(found["coverage"].values()) < 0.8
    assert_nothing_is_hollow(found)
