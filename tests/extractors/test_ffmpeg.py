"""Which ffmpeg is used, and what it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from extractors.media import ffmpeg as module
from extractors.media.ffmpeg import ffmpeg_binary, ffmpeg_version, passthrough, time_limit
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from fixtures.media import Zoo
from pipeline.core.errors import EnvironmentFault


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    ffmpeg_binary.cache_clear()
    yield
    ffmpeg_binary.cache_clear()


def write_program(folder: Path, text: str) -> Path:
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def test_the_ffmpeg_on_the_path_comes_first(tmp_path: Path, monkeypatch) -> None:
    program = write_program(tmp_path, "echo ffmpeg version 6.1.1 Copyright")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ffmpeg_binary() == str(program)
    assert ffmpeg_version(str(program)) == "6.1.1"


@pytest.mark.parametrize("text", ["exit 1", "echo I am something else", None])
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


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("4.4.2-0ubuntu0.22.04.1", "-vsync"),
        ("5.0", "-vsync"),
        ("5.1.9", "-fps_mode"),
        ("n9.0.2-17-g2a571b6068-20260930", "-fps_mode"),
        ("N-118000-gdeadbeef", "-fps_mode"),
    ],
)
def test_each_version_is_asked_in_its_own_words(monkeypatch, version: str, option: str) -> None:
    monkeypatch.setattr(module, "ffmpeg_version", lambda _: version)
    assert passthrough("ffmpeg")[0] == option


@pytest.mark.parametrize(("version", "knows"), [("4.4.2", False), ("5.0", True), ("n9.0", True)])
def test_old_versions_are_not_asked_to_drop_by_time(
    zoo: Zoo, monkeypatch, version: str, knows: bool
) -> None:
    info = describe(zoo, "constant.mp4")
    monkeypatch.setattr(module, "ffmpeg_version", lambda _: version)
    sound = module.sound_command(info, sample_rate=16_000, threads=0)
    picture = module.picture_command(info, fps=Fraction(16), size=(64, 48), threads=0)
    assert ("-bsf:a" in sound, "-bsf:v" in picture) == (knows, knows)


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


def test_both_streams_stay_in_play_where_time_stamps_may_jump(zoo: Zoo) -> None:
    jumping = module.sound_command(describe(zoo, "plain.ts"), sample_rate=16_000, threads=0)
    steady = module.sound_command(describe(zoo, "constant.mp4"), sample_rate=16_000, threads=0)
    assert jumping.count("-map") == 2
    assert steady.count("-map") == 1
