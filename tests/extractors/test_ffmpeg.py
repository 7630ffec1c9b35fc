"""Which ffmpeg is used, and what it is asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from extractors.media import ffmpeg as module
from extractors.media.audio import open_audio
from extractors.media.ffmpeg import ffmpeg_binary, ffmpeg_version, passthrough, time_limit
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import open_video
from fixtures.media import Zoo
from pipeline.core.errors import EnvironmentFault


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    ffmpeg_binary.cache_clear()
    yield
    ffmpeg_binary.cache_clear()


NEW = 'case "$2" in bsf=noise) echo "  -drop <string>";; *) echo ffmpeg version 6.1.1 here;; esac'
OLD = 'case "$2" in bsf=noise) echo "  -dropamount <int>";; *) echo ffmpeg version 4.4 here;; esac'


def write_program(folder: Path, text: str) -> Path:
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def test_the_ffmpeg_on_the_path_comes_first(tmp_path: Path, monkeypatch) -> None:
    program = write_program(tmp_path, NEW)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ffmpeg_binary() == str(program)
    assert ffmpeg_version(str(program)) == "6.1.1"


@pytest.mark.parametrize("text", ["exit 1", "echo I am something else", OLD, None])
def test_the_bundled_ffmpeg_is_used_where_the_path_has_none_that_works(
    tmp_path: Path, monkeypatch, text: str | None
) -> None:
    if text is not None:
        write_program(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if text else str(tmp_path))
    if text is None:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    assert ffmpeg_binary() == imageio_ffmpeg.get_ffmpeg_exe()


def test_a_machine_without_ffmpeg_is_told_how_to_get_one(monkeypatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(EnvironmentFault, match="pip install imageio-ffmpeg") as caught:
        ffmpeg_binary()
    assert caught.value.exit_code == 3


def test_an_ffmpeg_that_would_lose_the_clock_is_named_with_its_version(
    tmp_path: Path, monkeypatch
) -> None:
    program = write_program(tmp_path, OLD)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(module, "_bundled_binary", lambda: None)
    with pytest.raises(EnvironmentFault, match=r"is of version 4\.4, and 5\.0 is needed") as caught:
        ffmpeg_binary()
    assert str(program) in str(caught.value)


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("5.0", "-vsync"),
        ("5.0.1-3ubuntu1", "-vsync"),
        ("5.1.9", "-fps_mode"),
        ("n9.0.2-17-g2a571b6068-20260930", "-fps_mode"),
        ("N-118000-gdeadbeef", "-fps_mode"),
    ],
)
def test_each_version_is_asked_in_its_own_words(monkeypatch, version: str, option: str) -> None:
    monkeypatch.setattr(module, "ffmpeg_version", lambda _: version)
    assert passthrough("ffmpeg")[0] == option


def test_programs_are_kept_from_tables_of_another_c_library(monkeypatch) -> None:
    """Static ffmpegs crash on them as soon as a broadcast has a station's name."""
    monkeypatch.setenv("GCONV_PATH", "/usr/lib/gconv")
    environment = module.ffmpeg_environment()
    assert environment["GCONV_PATH"] == "/dev/null"
    assert environment["PATH"] == os.environ["PATH"]


def describe(zoo: Zoo, name: str) -> MediaInfo:
    return probe(zoo[name].path)


def test_decoding_stops_long_after_the_promised_end(zoo: Zoo) -> None:
    """A wild time stamp must not be filled up to with days of repeated frames."""
    info = describe(zoo, "constant.mp4")
    assert time_limit(info) == pytest.approx(65.0)
    command = module.picture_command(info, fps=Fraction(16), size=(64, 48), threads=0)
    assert command[command.index("-t") + 1] == "65.000000"


def test_the_file_is_named_so_that_nothing_else_can_be_meant(zoo: Zoo) -> None:
    for name in ("-leading dash.mp4", "new\nline %03d 'quote\" [0:v].mp4"):
        info = describe(zoo, name)
        command = module.sound_command(info, sample_rate=16_000, threads=1)
        assert command[command.index("-i") + 1] == f"file:{info.path.absolute()}"
        assert "-nostdin" in command
        assert command[command.index("-protocol_whitelist") + 1] == "file,pipe"


@pytest.mark.parametrize(
    ("limit", "asked", "told"), [(None, 0, None), (None, 3, "3"), (2, 0, "2"), (2, 3, "3")]
)
def test_ffmpeg_is_told_of_the_cores_of_its_container(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, limit: int | None, asked: int, told: str | None
) -> None:
    monkeypatch.setattr(module, "core_limit", lambda: limit)
    command = module.sound_command(describe(zoo, "constant.mp4"), sample_rate=16_000, threads=asked)
    before = command[: command.index("-i")]
    assert ("-threads" in before) == (told is not None)
    assert told is None or before[before.index("-threads") + 1] == told


def test_both_streams_stay_in_play_where_time_stamps_may_jump(zoo: Zoo) -> None:
    jumping = module.sound_command(describe(zoo, "plain.ts"), sample_rate=16_000, threads=0)
    steady = module.sound_command(describe(zoo, "constant.mp4"), sample_rate=16_000, threads=0)
    assert jumping.count("-map") == 2
    assert steady.count("-map") == 1


@pytest.mark.parametrize(
    ("version", "filters"),
    [
        ("5.1.9", ("select", "aselect")),
        ("7.1", ("select", "aselect")),
        ("n8.0-23", ("setpts", "asetpts")),
    ],
)
def test_frames_name_their_seconds_by_the_filter_that_proved_right(
    zoo: Zoo, monkeypatch, version: str, filters: tuple[str, str]
) -> None:
    info = describe(zoo, "constant.mp4")
    monkeypatch.setattr(module, "ffmpeg_version", lambda _: version)
    picture = module.picture_command(info, fps=Fraction(16), size=(64, 48), threads=0)
    sound = module.sound_command(info, sample_rate=16_000, threads=0)
    for command, filter in zip((picture, sound), filters, strict=True):
        assert f"{filter}=" in command[command.index("-filter_complex") + 1]


@pytest.mark.parametrize("reader", ["picture", "sound"])
def test_an_ffmpeg_that_is_silent_about_times_is_not_believed(
    zoo: Zoo, monkeypatch, reader: str
) -> None:
    """Else every hole would pass for a whole stretch."""
    info = describe(zoo, "constant.mp4")
    monkeypatch.setattr("extractors.media.gaps.PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "_announcing", lambda kind, values: (f"{kind}null",))
    with pytest.raises(EnvironmentFault, match="does not tell the times of its frames"):
        if reader == "sound":
            with open_audio(info) as sound:
                list(sound)
        else:
            with open_video(info, fps=Fraction(16), size=(64, 48), reader="ffmpeg") as video:
                list(video)
