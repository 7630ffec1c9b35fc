"""The log-mel front end against the published one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from extractors.audio.mel import (
    VGGISH_OFFSET,
    YAMNET_OFFSET,
    RunningLogMel,
    log_mel,
    log_mel_patches,
    mel_matrix,
)
from fixtures.golden_inputs import waveforms


def test_mel_bands_equal_the_published_matrix(golden: Path) -> None:
    reference = np.load(golden / "backbones/log_mel.npz")["mel_matrix"]
    np.testing.assert_allclose(mel_matrix(), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(waveforms()))
def test_log_mel_equals_the_published_front_end(golden: Path, name: str) -> None:
    reference = np.load(golden / "backbones/log_mel.npz")[name]
    ours = log_mel(waveforms()[name], offset=VGGISH_OFFSET)
    np.testing.assert_allclose(ours[::8], reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (559, 1), (560, 2), (15_600, 96), (15_599, 95)]
)
def test_a_frame_needs_all_its_samples(samples: int, frames: int) -> None:
    assert log_mel(np.zeros(samples), offset=YAMNET_OFFSET).shape == (frames, 64)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(800), offset=YAMNET_OFFSET), np.log(0.001))


def test_windows_of_a_batch_do_not_see_each_other() -> None:
    batch = np.random.default_rng(0).standard_normal((2, 3, 2000))
    together = log_mel(batch, offset=YAMNET_OFFSET)
    assert together.shape == (2, 3, 11, 64)
    np.testing.assert_array_equal(together[1, 2], log_mel(batch[1, 2], offset=YAMNET_OFFSET))


def test_sound_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than one frame, 400 samples"):
        log_mel(np.zeros(399), offset=YAMNET_OFFSET)


# --- stretches that are handed on one by one ------------------------------------------------------

PATCH = 15_600  # samples
STEPS = 8  # windows of a stretch


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of frames, call by call."""
    counts: list[int] = []

    def counting(sound: np.ndarray, *, offset: float) -> np.ndarray:
        frames = log_mel(sound, offset=offset)
        counts.append(len(frames))
        return frames

    monkeypatch.setattr("extractors.audio.mel.log_mel", counting)
    return counts


def noise(stretches: int, stride: int, *, seed: int = 0) -> np.ndarray:
    """Sound of so many stretches of `STEPS` windows."""
    samples = (STEPS * stretches - 1) * stride + PATCH
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def cut(sound: np.ndarray, stride: int) -> Iterator[np.ndarray]:
    """Stretches as a stream hands them on."""
    for first in range(0, len(sound) - PATCH + stride, STEPS * stride):
        yield sound[first : first + (STEPS - 1) * stride + PATCH]


def whole(sound: np.ndarray, stride: int) -> np.ndarray:
    return log_mel_patches(sound, offset=VGGISH_OFFSET, hop_seconds=stride / 16_000)


@pytest.mark.parametrize("stride", [4000, 5120, 20_000])
def test_frames_of_one_sound_are_computed_once(stride: int, computed: list[int]) -> None:
    """Also where stretches leave something out, windows of 0.975 s every 1.25 s."""
    sound = noise(4, stride)
    mels = RunningLogMel(offset=VGGISH_OFFSET)
    patches = np.concatenate([mels.patches(s, STEPS, stride=stride) for s in cut(sound, stride)])
    assert sum(computed) <= 1 + (len(sound) - 400) // 160
    np.testing.assert_allclose(patches, whole(sound, stride), rtol=0, atol=1e-12)


def test_what_is_not_the_end_of_the_last_stretch_is_computed(computed: list[int]) -> None:
    """Another sound, the same one from its start, and one behind a hole."""
    first, other = noise(2, 4000), noise(2, 4000, seed=1)
    begin, follow = cut(first, 4000)
    stranger = next(iter(cut(other, 4000)))
    behind = first[(STEPS + 3) * 4000 :]
    mels = RunningLogMel(offset=VGGISH_OFFSET)
    stretches = (begin, stranger, begin, follow, behind)
    found = [mels.patches(s, (len(s) - PATCH) // 4000 + 1, stride=4000) for s in stretches]
    full = 1 + (len(begin) - 400) // 160
    assert computed == [full, full, full, STEPS * 25, 1 + (len(behind) - 400) // 160]
    for stretch, patches in zip(stretches, found, strict=True):
        np.testing.assert_allclose(patches, whole(stretch, 4000), rtol=0, atol=1e-12)


def test_files_in_flight_do_not_forget_each_other(computed: list[int]) -> None:
    mels = RunningLogMel(offset=VGGISH_OFFSET)
    sounds = [noise(3, 4000, seed=seed) for seed in range(2)]
    with ThreadPoolExecutor(1) as here, ThreadPoolExecutor(1) as there:
        for stretches in zip(*(cut(sound, 4000) for sound in sounds), strict=True):
            for thread, stretch in zip((here, there), stretches, strict=True):
                thread.submit(mels.patches, stretch, STEPS, stride=4000).result()
    assert sum(computed) == sum(1 + (len(sound) - 400) // 160 for sound in sounds)


@pytest.mark.parametrize(("samples", "stride"), [(PATCH + 3999, 4000), (PATCH + 4001, 4001)])
def test_a_stretch_that_does_not_hold_its_windows_is_refused(samples: int, stride: int) -> None:
    mels = RunningLogMel(offset=VGGISH_OFFSET)
    with pytest.raises(ValueError, match=f"{samples} samples for 2 windows every {stride}"):
        mels.patches(np.zeros(samples, np.float32), 2, stride=stride)
