"""An ffmpeg that did not end by itself: what it gave is never taken for all there is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extractors.media.ended as module
from extractors.interruption import interrupted_by
from extractors.media.audio import AudioReader, open_audio
from extractors.media.probe import probe
from extractors.media.video import VideoReader, open_video
from extractors.stream import FeatureStream
from fixtures.backbones import toy
from fixtures.media import run_ffmpeg
from pipeline.core.errors import DecoderEndedError, MediaError

SECONDS = 120  # more than fits into pipes and queues: the decoder is at work while it is ended


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"color=green:s=320x240:r=5:d={SECONDS}"),
        *("-f", "lavfi", "-i", f"sine=440:r=16000:d={SECONDS}"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le"),
        path,
    )
    return path


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.0)


def sound_of(path: Path) -> AudioReader:
    return open_audio(probe(path))


def picture_of(path: Path) -> VideoReader:
    return open_video(probe(path), fps=Fraction(16), size=(320, 240), reader="ffmpeg")


def read_and_signal(reader: Any, number: int) -> list[int]:
    """Read to the end, and send the decoder a signal at the first block; lengths of the blocks."""
    taken: list[int] = []
    for block in reader:
        if not taken:
            os.kill(reader.pid, number)
        taken.append(len(getattr(block, "frames", block)))
    return taken


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("opened", [sound_of, picture_of])
def test_a_decoder_that_somebody_ended_is_no_end_of_the_file(
    long: Path, opened: Callable[[Path], Any], number: int
) -> None:
    with (
        opened(long) as reader,
        pytest.raises(DecoderEndedError, match="was ended from outside at second"),
    ):
        read_and_signal(reader, number)


@pytest.mark.parametrize("opened", [sound_of, picture_of])
def test_a_decoder_that_crashed_gives_what_it_had_and_says_so(
    long: Path, opened: Callable[[Path], Any]
) -> None:
    taken: list[int] = []
    with opened(long) as reader, pytest.raises(MediaError, match=r"ffmpeg crashed \(signal 11\)"):
        for block in reader:
            if not taken:
                os.kill(reader.pid, signal.SIGSEGV)
            taken.append(len(getattr(block, "frames", block)))
    assert taken  # how much more was on its way, nobody knows


def test_what_ffmpeg_may_not_open_is_damage_and_nobodys_signal(tmp_path: Path) -> None:
    """It leaves with 255 for that, too: a list behind a media file's name asks for the network."""
    path = tmp_path / "list.mkv"
    run_ffmpeg("-f", "lavfi", "-i", "sine=440:r=16000:d=1", "-c:a", "pcm_s16le", path)
    info = probe(path)
    path.write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/a.mp4\n")
    with open_audio(info) as reader, pytest.raises(MediaError, match="no sound can be decoded"):
        list(reader)


def test_a_reader_that_is_left_early_raises_nothing(long: Path) -> None:
    with sound_of(long) as reader:
        next(iter(reader))
    with picture_of(long) as video:
        next(iter(video))


def test_a_job_that_is_ended_as_a_whole_leaves_instead_of_blaming_the_decoder(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM and systemd send their signal to all processes; ours may come a moment later."""
    monkeypatch.setattr(module, "GRACE_S", 30.0)
    asked = threading.Event()
    with interrupted_by(asked), sound_of(long) as reader, pytest.raises(KeyboardInterrupt):
        for count, _ in enumerate(reader):
            if count == 0:
                os.kill(reader.pid, signal.SIGTERM)
                threading.Timer(0.5, asked.set).start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_file_whose_decoder_was_ended_never_passes_for_whole(
    long: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened: list[AudioReader] = []

    def remembered(*arguments: Any, **options: Any) -> AudioReader:
        opened.append(open_audio(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr("extractors.stream.open_audio", remembered)
    stream = FeatureStream(probe(long), toy())
    rows = iter(stream)
    next(rows)
    os.kill(opened[0].pid, number)
    if number == signal.SIGKILL:
        with pytest.raises(DecoderEndedError):
            list(rows)
        return
    heard = np.concatenate([chunk["audio_mask"] for chunk in rows])
    assert not heard[-8:].any()
    assert stream.summary.status == "partial"
    assert any("ffmpeg crashed (signal 11)" in note for note in stream.summary.notes)
