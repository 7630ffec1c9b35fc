"""A copy that was broken off is told from a whole file where its format gives a sign."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.media.probe import probe
from extractors.media.probe_child import info_from_json, info_to_json
from extractors.media.tails import tail_fault
from extractors.stream import extract_features
from fixtures.backbones import toy
from fixtures.media import Zoo, run_ffmpeg

CONTAINERS = {"ts": "mpegts", "m2ts": "mpegts", "ogv": "ogg", "opus": "ogg", "oga": "ogg"}
MAKE = {
    "ts": ("-c", "copy"),
    "m2ts": ("-c", "copy", "-mpegts_m2ts_mode", "1"),
    "ogv": ("-c:v", "libtheora", "-c:a", "libvorbis"),
    "opus": ("-vn", "-c:a", "libopus"),
    "oga": ("-vn", "-c:a", "flac"),
}


@pytest.fixture(scope="module")
def whole(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Bytes of a whole file, by its kind."""
    folder = tmp_path_factory.mktemp("whole")

    def make(kind: str) -> bytes:
        path = folder / f"whole.{kind}"
        if not path.exists():
            run_ffmpeg("-i", zoo["constant.mp4"].path, *MAKE[kind], path)
        return path.read_bytes()

    return make


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_whole_file_shows_nothing_and_one_that_was_broken_off_does(
    whole: Callable[[str], bytes], tmp_path: Path, kind: str
) -> None:
    data, path, chance = whole(kind), tmp_path / f"cut.{kind}", random.Random(0)
    path.write_bytes(data)
    assert tail_fault(path, CONTAINERS[kind]) == ""
    for _ in range(25):
        length = chance.randrange(len(data) // 2, len(data))
        if kind.endswith("ts") and length % (192 if kind == "m2ts" else 188) == 0:
            continue
        path.write_bytes(data[:length])
        assert tail_fault(path, CONTAINERS[kind]), length


def test_a_transport_stream_that_ends_with_a_packet_shows_nothing(
    whole: Callable[[str], bytes], tmp_path: Path
) -> None:
    data, path = whole("ts"), tmp_path / "cut.ts"
    path.write_bytes(data[: len(data) // 2 // 188 * 188])
    assert tail_fault(path, "mpegts") == ""


@pytest.mark.parametrize("container", ["mpegts", "ogg", "mpeg", "mov,mp4,m4a,3gp,3g2,mj2"])
@pytest.mark.parametrize("data", [b"", b"G", b"OggS", bytes(9_999), b"G" * 50, b"\xff" * 200_000])
def test_bytes_that_say_nothing_are_no_sign(tmp_path: Path, container: str, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert tail_fault(path, container) == ""


def test_padding_behind_the_last_packet_is_no_sign(
    whole: Callable[[str], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "padded.ts"
    path.write_bytes(whole("ts") + bytes(2_048))
    assert tail_fault(path, "mpegts") == ""


@pytest.mark.parametrize(("kind", "what"), [("ts", "middle of a packet"), ("ogv", "page")])
def test_what_was_broken_off_is_partial_and_says_so(
    whole: Callable[[str], bytes], tmp_path: Path, kind: str, what: str
) -> None:
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole(kind)[: len(whole(kind)) * 2 // 3 | 1])
    info = probe(path)
    assert what in info.broken_off
    assert info_from_json(info_to_json(info)) == info
    summary = extract_features(path, toy()).summary
    assert summary.status == "partial"
    assert any(note.startswith("the file was broken off: it") for note in summary.notes)
