"""Fixtures that all tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # no test is about speed
hypothesis.settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test touches the network, or weights that happen to be on this machine.
os.environ["PIPELINE_OFFLINE"] = "1"
os.environ["PIPELINE_CACHE"] = str(Path(tempfile.gettempdir()) / f"no-cache-{os.getpid()}")
os.environ.pop("PIPELINE_MIRRORS", None)

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the committed reference outputs."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Find reference material that is not part of the repository, or skip the test."""

    def find(relative: str) -> Path:
        root = Path(os.environ.get("PIPELINE_SHARED", REPOSITORY.parent / "shared"))
        path = root / relative
        if not path.exists():
            pytest.skip(f"reference material {relative} is not on this machine (PIPELINE_SHARED)")
        return path

    return find
