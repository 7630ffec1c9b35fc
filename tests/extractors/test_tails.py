"""A copy that was broken off is told from a whole file where its format gives a sign."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.media.matroska import matroska_fault
from extractors.media.probe import probe
from extractors.media.probe_child import info_from_json, info_to_json
from extractors.media.tails import TS_BYTES, open_end, tail_fault
from extractors.stream import extract_features
from fixtures.backbones import toy
from fixtures.media import X264, Zoo, run_ffmpeg
from pipeline.cli import main

CONTAINERS = {
    "ts": "mpegts",
    "m2ts": "mpegts",
    "mpg": "mpeg",
    "vob": "mpeg",
    "ogv": "ogg",
    "opus": "ogg",
    "oga": "ogg",
}
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "3", "-c:a", "mp2")
MAKE = {
    "ts": ("-c", "copy"),
    "m2ts": ("-c", "copy", "-mpegts_m2ts_mode", "1"),
    "mpg": MPEG2,  # packs of MPEG-1
    "vob": MPEG2,
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
    packet = {"ts": 188, "m2ts": 192, "mpg": 2048, "vob": 2048}.get(kind)
    for _ in range(25):
        length = chance.randrange(len(data) // 2, len(data))
        if packet is not None and length % packet < 4:  # not in the middle of one, or hardly
            continue
        path.write_bytes(data[:length])
        assert tail_fault(path, CONTAINERS[kind]), length


@pytest.mark.parametrize(("kind", "packet"), [("ts", 188), ("mpg", 2048), ("vob", 2048)])
def test_a_file_that_ends_with_a_packet_shows_no_fault(
    whole: Callable[[str], bytes], tmp_path: Path, kind: str, packet: int
) -> None:
    data, path = whole(kind), tmp_path / f"cut.{kind}"
    for share in (2, 3, 5):
        path.write_bytes(data[: len(data) // share // packet * packet])
        assert tail_fault(path, CONTAINERS[kind]) == ""


def test_a_program_stream_may_have_its_end_code_or_not(
    whole: Callable[[str], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "whole.mpg"
    for end in (b"\0\0\1\xb9", b"\0\0\1\xb9" + bytes(999), bytes(3), bytes(999)):
        path.write_bytes(whole("vob") + end)
        assert tail_fault(path, "mpeg") == ""


STREAMS = {0x100: "a picture", 0x101: "a stretch of sound"}  # as ffmpeg numbers them
BOTH = "a picture and a stretch of sound"


def goes_on(rest: bytes, number: int) -> bool:
    """Whether the next packet of a stream goes on with what an earlier one began."""
    packets = (rest[place : place + TS_BYTES] for place in range(0, len(rest), TS_BYTES))
    mine = (p for p in packets if int.from_bytes(p[1:3], "big") & 0x1FFF == number and p[3] & 0x10)
    following = next(mine, None)
    return following is not None and not following[1] & 0x40


def test_a_transport_stream_that_ends_with_a_packet_tells_what_it_ends_within(
    whole: Callable[[str], bytes], tmp_path: Path
) -> None:
    data, path, seen = whole("ts"), tmp_path / "cut.ts", set()
    for place in range(len(data) // 2 // TS_BYTES * TS_BYTES, len(data), 7 * TS_BYTES):
        path.write_bytes(data[:place])
        expected = [name for number, name in STREAMS.items() if goes_on(data[place:], number)]
        assert open_end(path, "mpegts", STREAMS) == " and ".join(expected), place
        seen.add(len(expected))
    assert seen == {0, 1}  # this program writes one to its end before it begins the next


def test_damaged_packets_harm_nobody(whole: Callable[[str], bytes], tmp_path: Path) -> None:
    path, chance = tmp_path / "damaged.ts", random.Random(0)
    for _ in range(50):
        data = bytearray(whole("ts")[-40 * TS_BYTES :])
        for place in range(0, len(data), TS_BYTES):  # all but the sync bytes and the numbers
            data[place + 3 : place + 32] = chance.randbytes(29)
        path.write_bytes(data)
        assert open_end(path, "mpegts", STREAMS) in ("", *STREAMS.values(), BOTH)


@pytest.mark.parametrize(
    "name", ["plain.ts", "late.ts", "video_from_2s.ts", "audio_from_2s.ts", "mpeg2.mpg"]
)
def test_a_whole_file_ends_within_nothing(zoo: Zoo, name: str) -> None:
    info = probe(zoo[name].path)
    assert (info.broken_off, info.open_end) == ("", "")


def test_what_a_file_ends_within_is_told_and_no_fault(
    whole: Callable[[str], bytes], tmp_path: Path
) -> None:
    """A broadcast whose recording was stopped ends so, and nothing of it is missing."""
    data, path = whole("ts"), tmp_path / "stopped.ts"
    places = range(len(data) // 2 // TS_BYTES * TS_BYTES, len(data), TS_BYTES)
    path.write_bytes(data[: next(place for place in places if goes_on(data[place:], 0x101))])
    summary = extract_features(path, toy()).summary
    assert summary.status == "done"
    assert "the file seems to end within a stretch of sound" in summary.notes


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


@pytest.mark.parametrize(
    ("kind", "what"), [("ts", "middle of a packet"), ("mpg", "of a packet"), ("ogv", "page")]
)
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


LIVE = {
    "mkv": ("-c", "copy"),
    "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libvorbis"),
}


@pytest.mark.parametrize("kind", LIVE)
def test_a_live_recording_that_was_broken_off_is_told_from_a_whole_one(
    zoo: Zoo, tmp_path: Path, kind: str
) -> None:
    """As browsers record: no length in the header, no table at the end."""
    path, cut = tmp_path / f"live.{kind}", tmp_path / f"cut.{kind}"
    run_ffmpeg("-i", zoo["constant.mp4"].path, *LIVE[kind], "-live", "1", path)
    data, chance = path.read_bytes(), random.Random(0)
    assert matroska_fault(path) == ""
    assert (probe(path).broken_off, extract_features(path, toy()).summary.status) == ("", "done")
    told = 0
    for _ in range(25):
        cut.write_bytes(data[: chance.randrange(len(data) // 2, len(data))])
        told += matroska_fault(cut) == "it ends in the middle of a block"
    assert told >= 20  # blocks of such a small picture are short: some cuts lie between two
    cut.write_bytes(data[: len(data) * 2 // 3])
    summary = extract_features(cut, toy()).summary
    assert summary.status == "partial" and "middle of a block" in summary.notes[-1]


def test_padding_behind_the_last_block_is_no_sign(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "padded.mkv"
    path.write_bytes(zoo["live.mkv"].path.read_bytes() + bytes(9_999))
    assert matroska_fault(path) == ""


@pytest.mark.parametrize("data", [b"", bytes(9_999), b"\x1fC\xb6u", b"\xff" * 99])
def test_what_is_no_matroska_shows_no_fault(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert matroska_fault(path) == ""


def test_a_broken_off_fragment_is_told(zoo: Zoo, tmp_path: Path) -> None:
    """What is there ends as whole files do, and a long file would not miss the rest of it."""
    path, fragments = tmp_path / "cut.mp4", ("-movflags", "frag_keyframe+empty_moov+skip_trailer")
    whole = tmp_path / "whole.mp4"
    run_ffmpeg("-i", zoo["constant.mp4"].path, *X264, "-g", "25", "-c:a", "copy", *fragments, whole)
    assert probe(whole).broken_off == ""
    data = whole.read_bytes()
    path.write_bytes(data[: data.rindex(b"mdat") + 9])
    info = probe(path)
    assert info.broken_off == "it ends in the middle of a fragment"
    assert extract_features(path, toy()).summary.status == "partial"


def test_a_broken_off_asf_file_still_promises_what_its_header_says(
    zoo: Zoo, tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole.wmv", tmp_path / "cut.wmv"
    run_ffmpeg("-i", zoo["constant.mp4"].path, "-c:v", "wmv2", "-c:a", "wmav2", whole)
    found = extract_features(whole, toy()).summary
    assert (found.status, found.notes) == ("done", ())
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert probe(path).duration == pytest.approx(probe(whole).duration, abs=0.1)
    cut = extract_features(path, toy()).summary
    assert cut.status == "partial" and max(cut.coverage.values()) < 0.8


def test_the_command_that_looks_at_a_file_says_that_it_was_broken_off(
    whole: Callable[[str], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.mpg"
    path.write_bytes(whole("mpg")[:-700])
    assert main(["probe", str(path)]) == 0
    assert "the file was broken off: it ends in the middle of a packet" in capsys.readouterr().out
