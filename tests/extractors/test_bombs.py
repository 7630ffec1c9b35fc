"""Files that ask for too much, or kill what looks at them, cost themselves and nothing else."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import pytest

from extractors.media import probe_apart as apart
from extractors.media import process, video_ffmpeg
from extractors.media.audio import open_audio
from extractors.media.limits import MAX_PIXELS, decoder_memory
from extractors.media.probe import probe
from extractors.media.probe_apart import probe_apart
from extractors.media.probe_child import info_from_json, info_to_json
from extractors.media.process import WatchedProcess
from extractors.media.video import open_video
from fixtures.backbones import TOY
from fixtures.media import Zoo, run_ffmpeg
from pipeline.core.errors import EnvironmentFault, MediaError
from workflows.extraction.run import extract

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory of children is limited on Linux")
GREEDY = "print(len(bytearray({}) + b'x'), flush=True)"


@pytest.fixture
def no_prober() -> Iterator[None]:
    """Nobody has looked at a file before, and nobody stays."""
    apart._close_all()
    yield
    apart._close_all()


def large_picture(path: Path, side: int) -> Path:
    """A picture of side x side grey points as PNG in Matroska; kilobytes for gigabytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = zlib.compressobj(1)
    line = bytes(1 + side)
    data = b"".join(rows.compress(line) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = path.with_suffix(".png")
    png.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    run_ffmpeg("-framerate", "1", "-f", "image2", "-c:v", "png", "-i", png, "-c", "copy", path)
    return path


@linux
def test_a_picture_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = large_picture(tmp_path / "bomb.mkv", 9_000)
    assert path.stat().st_size < 1 << 20
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from extractors.media.probe import probe\n"
        "from pipeline.core.errors import MediaError\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
        "before = peak()\n"
        "try:\n    probe(sys.argv[1])\n"
        "except MediaError as error:\n    print(error.reason)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    reason, grown = done.stdout.splitlines()
    assert f"more than {MAX_PIXELS:,} pixels" in reason
    assert int(grown) < 60_000  # kilobytes; the picture alone has 81,000


def test_a_large_picture_is_no_bomb(tmp_path: Path) -> None:
    video = probe(large_picture(tmp_path / "large.mkv", 2_000)).video
    assert video is not None
    assert (video.width, video.height) == (2_000, 2_000)


def test_a_decoder_refuses_a_frame_that_is_larger_than_the_header_says(
    tmp_path: Path, zoo: Zoo
) -> None:
    honest = probe(large_picture(tmp_path / "small.mkv", 64))
    path = large_picture(tmp_path / "bomb.mkv", 9_000)
    video = open_video(replace(honest, path=path), fps=Fraction(1), size=(64, 64), reader="ffmpeg")
    with pytest.raises(MediaError, match="no picture can be decoded"), video:
        list(video)


@linux
def test_a_child_cannot_hold_more_than_it_is_allowed() -> None:
    for megabytes, words in [(50, str((50 << 20) + 1)), (900, "")]:
        child = WatchedProcess(
            [
                sys.executable,
                "-c",
                f"import time; time.sleep(0.3); {GREEDY.format(megabytes << 20)}",
            ],
            stall_timeout=60.0,
            memory=400 << 20,
        )
        answer = bytearray(64)
        count = child.fill(memoryview(answer))
        assert bytes(answer[:count]).decode().strip() == words
        if not words:
            child.wait()
            assert child.last_words == "MemoryError"
        child.close()


@pytest.mark.parametrize("stream", ["picture", "sound"])
def test_both_readers_limit_their_ffmpeg(
    zoo: Zoo, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited: list[tuple[int, int]] = []
    monkeypatch.setattr(process, "limit_memory", lambda *call: limited.append(call))
    info = probe(zoo["constant.mp4"].path)
    if stream == "picture":
        reader = open_video(info, fps=Fraction(16), size=(640, 480), reader="ffmpeg")
    else:
        reader = open_audio(info)
    with reader:
        next(iter(reader))
        assert limited == [(reader.pid, decoder_memory(info))]


@linux
def test_an_ffmpeg_that_runs_out_of_memory_fails_its_file(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_ffmpeg, "decoder_memory", lambda _: 1 << 20)
    video = open_video(
        probe(zoo["constant.mp4"].path), fps=Fraction(16), size=(64, 48), reader="ffmpeg"
    )
    with pytest.raises(MediaError, match="no picture can be decoded"), video:
        list(video)


def test_memory_grows_with_the_picture(zoo: Zoo) -> None:
    info = probe(zoo["constant.mp4"].path)
    assert info.video is not None
    larger = replace(info, video=replace(info.video, width=7680, height=4320))
    assert decoder_memory(larger) - decoder_memory(info) > 32 * 7680 * 4320 * 3
    assert decoder_memory(replace(info, video=None)) >= 1 << 30


@pytest.mark.parametrize("name", ["constant.mp4", "ntsc.mp4", "audio_only.wav", "no_audio.mp4"])
def test_another_process_says_the_same_of_a_file(zoo: Zoo, name: str) -> None:
    info = probe(zoo[name].path)
    assert probe_apart(zoo[name].path) == info
    assert info_from_json(info_to_json(info)) == info


def test_names_that_are_no_text_reach_the_other_process(zoo: Zoo, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.mp4"))
    path.write_bytes(zoo["constant.mp4"].path.read_bytes())
    assert probe_apart(path).path == path


def test_errors_come_back_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.mp4").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError) as direct:
        probe("empty.mp4")
    with pytest.raises(MediaError) as asked:
        probe_apart("empty.mp4")
    assert str(asked.value) == str(direct.value)
    assert (asked.value.path, asked.value.hint) == (direct.value.path, direct.value.hint)


def test_one_process_looks_at_many_files(zoo: Zoo, no_prober: None) -> None:
    pids = set()
    for name in ("constant.mp4", "h264.mkv", "audio_only.wav"):
        probe_apart(zoo[name].path)
        pids |= {child.pid for child in psutil.Process().children() if _is_prober(child)}
    assert len(pids) == 1


def test_a_process_is_replaced_after_some_files(
    zoo: Zoo, no_prober: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "FILES_EACH", 2)
    running = []
    for _ in range(3):
        probe_apart(zoo["constant.mp4"].path)
        running.append({c.pid for c in psutil.Process().children() if _is_prober(c)})
    assert [len(pids) for pids in running] == [1, 0, 1] and running[0] != running[2]


def test_threads_do_not_wait_for_each_other(zoo: Zoo, no_prober: None) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(probe_apart(zoo["constant.mp4"].path)))
        for _ in range(3)
    ]
    zoo["constant.mp4"]  # made before anybody asks
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1


def test_a_process_that_somebody_killed_is_replaced(zoo: Zoo, no_prober: None) -> None:
    info = probe_apart(zoo["constant.mp4"].path)
    (child,) = [child for child in psutil.Process().children() if _is_prober(child)]
    child.kill()
    child.wait()
    assert probe_apart(zoo["constant.mp4"].path) == info


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; input(); os.kill(os.getpid(), signal.SIGSEGV)", "with status -11"),
        ("import time; time.sleep(60)", "that hung"),
        ("input(); print('{', end='')", "with status 0"),
    ],
)
def test_a_file_that_crashes_or_hangs_libav_fails_alone(
    zoo: Zoo, no_prober: None, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    assert signal.SIGSEGV == 11
    path = zoo["constant.mp4"].path
    with monkeypatch.context() as patch:
        patch.setattr(apart, "CHILD", ("-c", program))
        patch.setattr(apart, "TIMEOUT_S", 2.0)
        with pytest.raises(MediaError, match=f"ended a process {words}"):
            probe_apart(path)
    assert probe_apart(path).duration == pytest.approx(5.0, abs=0.05)


def test_an_extraction_survives_a_file_that_crashes_libav(
    zoo: Zoo, tmp_path: Path, no_prober: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, signal; input(); os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(apart, "CHILD", ("-c", crash))
    (row,) = extract([zoo["constant.mp4"].path], tmp_path / "out", backbone=TOY).rows
    assert row.outcome == "failed"
    assert "ended a process with status -11" in row.reason


def test_a_program_that_cannot_be_loaded_is_not_blamed_on_the_file(
    zoo: Zoo, tmp_path: Path, no_prober: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that misses a library: every video would fail there, and not be retried."""
    with monkeypatch.context() as patch:
        patch.setattr(apart, "CHILD", ("-c", "import extractors.media.not_there"))
        with pytest.raises(EnvironmentFault, match="ends before it begins, with status 1"):
            extract([zoo["constant.mp4"].path], tmp_path / "out", backbone=TOY)
    (row,) = extract([zoo["constant.mp4"].path], tmp_path / "out", backbone=TOY).rows
    assert row.outcome == "done"


def _is_prober(child: psutil.Process) -> bool:
    return "extractors.media.probe_child" in child.cmdline()
