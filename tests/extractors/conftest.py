"""Fixtures of the extractor tests."""

from __future__ import annotations

import pytest

from fixtures.media import Zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Media files by name, each made when it is first asked for."""
    return Zoo(tmp_path_factory.mktemp("zoo"))
