"""Four jobs share a store, and each packs it again and again while all of them work."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY
from tests.torture import sized
from tests.torture.processes import ROOT, environment
from tests.torture.stores import assert_same
from workflows.extraction.run import extract

SCRIPT = """
import sys
from fixtures.backbones import SLOW_TOY
from extractors.storage import packing
from workflows.extraction import run as job
from workflows.extraction import pack_along
if __name__ == "__main__":
    pack_along.PACK_EVERY, packing.SHARD_VIDEOS, job.PACK_VIDEOS = 1, 3, 10**6
    sys.exit(job.extract([sys.argv[1]], sys.argv[2], backbone=SLOW_TOY).exit_code)
"""


@pytest.fixture(scope="module")
def many(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(sized(2, 40)):
        for path in videos.iterdir():
            shutil.copy2(path, folder / f"{number:02} {path.name}")
    return folder


def test_four_jobs_that_pack_meanwhile_do_every_item_exactly_once(
    many: Path, tmp_path: Path
) -> None:
    expected, out = tmp_path / "expected", tmp_path / "features"
    assert extract([many], expected, backbone=TOY).exit_code == 0
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    jobs = [
        subprocess.Popen(
            [sys.executable, str(script), str(many), str(out)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(0.02),
        )
        for _ in range(4)
    ]
    for job in jobs:
        _, complaints = job.communicate(timeout=600)
        assert job.returncode == 0, complaints
    store = FeatureStore.open(out)
    packed = len(store) - len(store.loose_paths())
    assert packed >= len(store) / 2  # the last few are left: nothing is packed at the end here
    done = [row.id for row in store.ledger.rows() if row.outcome == "done"]
    assert sorted(done) == store.ids()
    assert_same(out, FeatureStore.open(expected))
