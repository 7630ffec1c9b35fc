"""The sound reader: samples on the container clock, whatever the file does."""

from __future__ import annotations

import math
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from extractors.media import audio as audio_module
from extractors.media.audio import AudioReader, open_audio
from extractors.media.probe import probe
from fixtures.media import Plan, Zoo, beep_start, run_ffmpeg
from pipeline.core.errors import MediaError


def read_all(reader: AudioReader) -> np.ndarray:
    with reader:
        blocks = list(reader)
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    return np.concatenate(blocks)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_samples_come_at_the_rate_that_was_asked_for(zoo: Zoo, rate: int) -> None:
    reader = open_audio(probe(zoo["constant.mp4"].path), sample_rate=rate)
    samples = read_all(reader)
    assert len(samples) == pytest.approx(5 * rate, abs=0.02 * rate)
    assert beep_start(samples, rate) == pytest.approx(3.0, abs=0.002)
    assert reader.reader == "ffmpeg"
    assert reader.end == len(samples) / rate


def test_loudness_survives_the_way_to_mono(zoo: Zoo) -> None:
    for name in ("audio_only.wav", "surround.mkv"):
        samples = read_all(open_audio(probe(zoo[name].path)))
        beep = samples[int(3.1 * 16_000) : int(3.3 * 16_000)]
        assert np.abs(beep).max() == pytest.approx(0.5, abs=0.03)


def resampled_by_definition(sound: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Sound brought to a lower rate by the sum that defines kaiser_best, sample by sample.

    y[m] = sum_n x[n] h(n / rate - m / target), where h is a sinc rolled off at 0.9476 of the lower
    rate's half, of 64 of its periods to either side, under a Kaiser window of beta 14.77.
    """
    beta, cutoff, reach = 14.769656459379492, 0.9475937167399596 * target, 64 / target
    seconds = np.arange(len(sound) * target // rate) / target
    border = math.ceil(reach * rate)
    first = np.ceil((seconds - reach) * rate).astype(int)
    places = first[:, None] + np.arange(2 * border)
    away = places / rate - seconds[:, None]
    window = np.i0(beta * np.sqrt(np.maximum(0, 1 - (away / reach) ** 2))) / np.i0(beta)
    kernel = np.where(abs(away) <= reach, np.sinc(cutoff * away) * window * cutoff / rate, 0)
    heard = np.pad(sound, 2 * border)[places + 2 * border]
    found: np.ndarray = (heard * kernel).sum(axis=1)
    return found


def test_rates_are_changed_as_the_public_extractors_do(tmp_path: Path) -> None:
    """ffmpeg's own default is about 1 % away on real sound, and more on noise."""
    noise = np.random.default_rng(0).normal(0, 0.1, 22_050)
    stored = np.clip(np.rint(noise * 32768), -32768, 32767).astype("<i2")
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(stored.tobytes())
    samples = read_all(open_audio(probe(tmp_path / "noise.wav"), sample_rate=16_000))
    expected = resampled_by_definition(stored / 32768, 44_100, 16_000)
    assert abs(len(samples) - len(expected)) <= 1
    inner = slice(200, 7_800)  # what lies within reach of the ends is treated in several ways
    error = np.linalg.norm(samples[inner] - expected[inner]) / np.linalg.norm(expected[inner])
    assert error < 3e-4


def test_what_comes_before_a_late_sound_is_silence(zoo: Zoo) -> None:
    samples = read_all(open_audio(probe(zoo["audio_from_2s.mp4"].path)))
    assert not samples[: int(1.95 * 16_000)].any()
    assert len(samples) == pytest.approx(5 * 16_000, abs=400)


def test_sound_from_a_minute_on_is_where_it_belongs(zoo: Zoo) -> None:
    plan = Plan("minute.mkv", picture=None, sound=(60.0, 64.0), event=62.0)
    source = plan.make(zoo.folder)
    path = zoo.folder / "with_picture.mkv"
    run_ffmpeg(
        *("-i", zoo["no_audio.mp4"].path, "-itsoffset", "60", "-i", source.path),
        *("-map", "0:v", "-map", "1:a", "-c", "copy", path),
    )
    samples = read_all(open_audio(probe(path)))
    assert beep_start(samples, 16_000) == pytest.approx(62.0, abs=0.01)


@pytest.mark.parametrize("name", ["h264.mkv", "constant.mp4"])
def test_a_truncated_file_ends_early_and_says_where(zoo: Zoo, name: str, tmp_path: Path) -> None:
    source = tmp_path / f"front{zoo[name].path.suffix}"
    run_ffmpeg("-i", zoo[name].path, "-c", "copy", "-movflags", "+faststart", source)
    whole = source.read_bytes()
    cut = tmp_path / f"cut{source.suffix}"
    cut.write_bytes(whole[: len(whole) * 7 // 10])
    reader = open_audio(probe(cut))
    samples = read_all(reader)
    assert 1.0 < reader.end < 4.5
    assert reader.end == len(samples) / 16_000


def test_blocks_are_bounded(zoo: Zoo) -> None:
    with open_audio(probe(zoo["constant.mp4"].path)) as reader:
        lengths = [len(block) for block in reader]
    assert max(lengths) <= 4 * 16_000
    assert sum(lengths) == pytest.approx(80_000, abs=320)


def test_a_file_without_sound_is_an_error(zoo: Zoo) -> None:
    with pytest.raises(MediaError, match="no sound stream"):
        open_audio(probe(zoo["no_audio.mp4"].path))


def test_sound_that_cannot_be_decoded_is_an_error(zoo: Zoo, tmp_path: Path) -> None:
    info = replace(probe(zoo["constant.mp4"].path), path=tmp_path / "gone.mp4")
    with pytest.raises(MediaError, match=r"gone\.mp4: no sound can be decoded"):
        read_all(open_audio(info))


def test_a_hung_ffmpeg_is_an_error(zoo: Zoo, monkeypatch) -> None:
    monkeypatch.setattr(audio_module, "sound_command", lambda *_, **__: ["sleep", "60"])
    reader = open_audio(probe(zoo["constant.mp4"].path), stall_timeout=0.3)
    with pytest.raises(MediaError, match="ffmpeg hung while decoding the sound"):
        read_all(reader)


def test_leaving_early_ends_ffmpeg(zoo: Zoo) -> None:
    with open_audio(probe(zoo["constant.mp4"].path)) as reader:
        next(iter(reader))
        pid = reader.pid
    assert not psutil.pid_exists(pid)
