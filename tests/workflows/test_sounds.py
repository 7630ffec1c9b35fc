"""Recognition of real sounds, and the table that reports it."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extractors.audio.yamnet import audioset_classes
from pipeline.core.errors import NothingMatchedError
from workflows.bench.sounds import ESC_10, SoundReport, SoundRow, measure_sounds


def write_wav(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((sound * 32767).astype("<i2").tobytes())


def test_every_name_of_the_mapping_is_one_of_audiosets() -> None:
    known = set(audioset_classes())
    for meaning in ESC_10.values():
        assert set(meaning.names) | set(meaning.broader) <= known
        assert not set(meaning.names) & set(meaning.broader)


def test_clips_are_counted_by_class(tmp_path: Path) -> None:
    (tmp_path / "rain").mkdir()
    noise = 0.05 * np.random.default_rng(0).standard_normal(32_000)
    write_wav(tmp_path / "rain" / "noise.wav", noise)
    write_wav(tmp_path / "rain" / "short.wav", np.zeros(800))
    report = measure_sounds(tmp_path, device="cpu")
    (row,) = report.rows
    assert (row.category, row.clips) == ("rain", 2)
    assert row.named <= row.named_below <= 2
    assert report.format_table().splitlines()[-1].split()[:2] == ["all", "2"]


def test_shares_are_over_all_clips() -> None:
    rows = (SoundRow("dog", 3, 1, 3, ("Animal",)), SoundRow("rain", 1, 1, 1, ("Rain",)))
    report = SoundReport("net", rows)
    assert report.named == 0.5
    assert report.named_below == 1.0


def test_a_folder_without_the_classes_is_told(tmp_path: Path) -> None:
    with pytest.raises(NothingMatchedError, match="no clips of the ESC-10 classes"):
        measure_sounds(tmp_path)


def test_real_sounds_are_named(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    for category in ("dog", "crying_baby", "sea_waves", "sneezing"):
        (tmp_path / category).mkdir()
        for clip in sorted(shared(f"semireal/audio/{category}").glob("*.ogg"))[:8]:
            (tmp_path / category / clip.name).symlink_to(clip)
    report = measure_sounds(tmp_path, device="cpu")
    assert sum(row.clips for row in report.rows) == 32
    assert report.named >= 0.7
