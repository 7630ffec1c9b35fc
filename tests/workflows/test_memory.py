"""The memory benchmark: it watches a whole family of processes, and says what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from extractors.lite_spec import LITE
from model.checkpoint import Card, save_checkpoint
from pipeline.core.errors import CheckpointError, EnvironmentFault
from workflows.bench.memory import MemoryReport, MemoryRun, MemoryTask, measure_memory, tree_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")

MEGABYTE = 1_000_000
PARENT = """
import subprocess, sys
child = "held = bytearray(b'x' * 60_000_000); print('ready', flush=True); input()"
inner = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
inner.stdout.readline()
print("ready", flush=True)
input()
inner.communicate(b"\\n")
"""


def test_the_memory_of_children_counts() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    assert tree_bytes(parent.pid) > 60 * MEGABYTE
    parent.communicate(b"\n")
    assert tree_bytes(parent.pid) == 0


@pytest.mark.parametrize(("detect", "said"), [(False, "extract"), (True, "detect")])
def test_a_short_and_a_long_file_stand_side_by_side(detect: bool, said: str) -> None:
    task = MemoryTask("lite" if detect else "none", "ffmpeg", detect=detect)
    report = measure_memory(task, short=1, long=3)
    assert (report.short.steps, report.long.steps) == (1, 9)
    assert report.long.media_seconds == pytest.approx(3, abs=0.2)
    assert report.short.peak_bytes > 20 * MEGABYTE, "an interpreter alone takes some"
    table = report.format_table()
    assert f"{said} with backbone {task.backbone}" in table and "ratio" in table


def test_the_table_says_whether_the_bound_holds() -> None:
    def run(peak: int) -> MemoryRun:
        return MemoryRun(1.0, 1, "ffmpeg", peak, 1.0)

    assert ", within the bound" in MemoryReport("x", run(100), run(109)).format_table()
    assert "NOT within the bound" in MemoryReport("x", run(100), run(111)).format_table()


def test_a_checkpoint_names_its_backbone_and_a_missing_one_stops_before_any_work(
    tmp_path: Path,
) -> None:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, {}, Card({"classes": 1}, ("dog",), LITE.to_json(), LITE.digest))
    assert str(MemoryTask(model=path)) == "detect with best.safetensors on backbone lite"
    with pytest.raises(CheckpointError, match="does not exist"):
        measure_memory(MemoryTask(model=tmp_path / "none.safetensors"))


def test_work_that_fails_is_said_with_its_reason() -> None:
    with pytest.raises(EnvironmentFault, match=r"1s\.mp4 failed: .*unknown backbone 'lit'"):
        measure_memory(MemoryTask("lit"), short=1, long=1)
