"""Fixtures of the extractor tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.downloads import Fetch, publish
from fixtures.hf import Models
from fixtures.media import Zoo
from fixtures.weights_server import NAME, Server, serving


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Media files by name, each made when it is first asked for."""
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def hf_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Tiny models of transformers by name, each made when it is first asked for."""
    return Models(tmp_path_factory.mktemp("hf"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is the official address of the file."""
    with serving(Server()) as state:
        publish(monkeypatch, f"{state.url}/{NAME}")
        yield state


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    return Fetch(tmp_path / "cache")
