"""Every kind of honest file: what it shows and says lies on its clock, and it is whole.

Judged by marks that were put in: each frame bears its number, a flash and a beep come at a known
second. In full (`make torture`) all of `fixtures.oddities`, reduced every fourth.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from extractors.media.audio import open_audio
from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.stream import extract_features
from fixtures.backbones import toy
from fixtures.media import BITS, Specimen, beep_start, is_white, read_number
from fixtures.oddities import LONG_ODDITIES, ODDITIES
from tests.torture import FULL, sized

FPS, RATE = Fraction(16), 16_000
FRAME_S = float(1 / FPS)
STAMP_S = 0.0011  # Matroska, FLV and ASF round to milliseconds
ENDS_S = 0.07  # a sample of the grid, or three packets of sound
PRIMING_S = 0.05  # what codecs put in front of the sound, at most (WMA)
SMEAR_S = 0.005  # by which Vorbis softens the beginning of a beep
# These say how much of that is to be left out; in others the clock begins with it.
EXACT = {
    *("mp4", "mov", "m4a", "3gp", "mkv", "mka", "webm", "ogg", "opus", "mp3"),
    *("wav", "w64", "aiff", "au", "caf", "flac", "wv", "mxf"),
}
LEAST_SIDE = 16  # pixels, below which no numbers can be read
NAMES = [*list(ODDITIES)[:: sized(4, 1)], *(LONG_ODDITIES if FULL else ())]


def hear(info: MediaInfo) -> np.ndarray:
    with open_audio(info, sample_rate=RATE) as sound:
        return np.concatenate([np.zeros(0, np.float32), *sound])


def see(info: MediaInfo, reader: str) -> dict[int, np.ndarray]:
    frames: dict[int, np.ndarray] = {}
    with open_video(info, fps=FPS, size=(128, 96), reader=reader) as video:
        for block in video:
            frames |= {block.first + k: frame for k, frame in enumerate(block.frames)}
    return frames


def delayed(truth: Specimen, delay: float) -> Specimen:
    """The truth of a file whose clock begins with the priming of its sound."""
    assert truth.sound is not None
    start, end = truth.sound
    sound = (start and start + delay, end + delay)
    if truth.picture is None:
        return replace(truth, sound=sound)
    assert truth.frames is not None and truth.flash is not None
    return replace(
        truth,
        frames={number: second + delay for number, second in truth.frames.items()},
        flash=truth.flash + delay,
        picture=(truth.picture[0] + delay, truth.picture[1] + delay),
        sound=sound,
    )


def assert_sound_is_right(info: MediaInfo, truth: Specimen) -> Specimen:
    """What is heard is where it belongs.

    Returns:
        The truth on the clock of the file.
    """
    assert info.audio is not None and truth.sound is not None and truth.beep is not None
    samples = hear(info)
    delay = beep_start(samples, RATE) - truth.beep
    exact = truth.path.suffix[1:] in EXACT
    assert -0.002 <= delay <= (SMEAR_S if exact else PRIMING_S)
    if not exact:
        truth = delayed(truth, delay)
    assert truth.sound is not None
    assert info.audio.start == pytest.approx(truth.sound[0], abs=0.13)  # with the priming of 8 kHz
    assert info.audio.end is None or info.audio.end == pytest.approx(truth.sound[1], abs=ENDS_S)
    assert len(samples) / RATE == pytest.approx(truth.sound[1], abs=ENDS_S)
    return truth


def assert_picture_is_right(info: MediaInfo, truth: Specimen, reader: str) -> None:
    assert info.video is not None and truth.frames is not None
    assert truth.picture is not None and truth.flash is not None
    start, end = truth.picture
    assert info.video.start == pytest.approx(start, abs=0.02)
    assert info.video.end is None or info.video.end == pytest.approx(end, abs=ENDS_S)
    assert (info.video.width, info.video.height) == truth.size
    frames = see(info, reader)
    if end - start < FRAME_S:  # it may fall between two samples
        assert len(frames) <= 2
        return
    if min(truth.size) >= LEAST_SIDE and len(truth.frames) > 1:
        for j, frame in frames.items():
            second = float(j / FPS)
            shown = {truth.frame_at(second + by) % (1 << BITS) for by in (-STAMP_S, 0, STAMP_S)}
            assert read_number(frame) in shown, (reader, second)
    assert min(frames) == pytest.approx(float(start * FPS), abs=1)
    assert max(frames) == pytest.approx(float(end * FPS - 1), abs=1.5)
    lit = min(j for j, frame in frames.items() if is_white(frame))
    assert -STAMP_S <= float(lit / FPS) - truth.flash <= FRAME_S + STAMP_S


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_file_is_whole_and_all_in_it_is_where_it_belongs(name: str, tmp_path: Path) -> None:
    truth = (ODDITIES | LONG_ODDITIES)[name](tmp_path)
    info = probe(truth.path)
    if truth.sound is None:
        assert info.audio is None
    else:
        truth = assert_sound_is_right(info, truth)
    if truth.picture is None:
        assert info.video is None
    else:
        for reader in ("auto", "ffmpeg"):
            assert_picture_is_right(info, truth, reader)
    found = extract_features(truth.path, toy())
    spans = {"vision": truth.picture, "audio": truth.sound}
    duration = max(span[1] for span in spans.values() if span is not None)
    assert found.summary.status == "done", found.summary.notes
    assert found.summary.duration == pytest.approx(duration, abs=0.1)
    for modality, span in spans.items():
        mask = found[f"{modality}_mask"]
        if span is None:
            assert not mask.any()
        else:
            expected = found.grid.mask(len(mask), *span, duration)
            assert np.sum(mask != expected) <= 1, modality
