"""The log-mel front end against the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extractors.audio.mel import VGGISH_OFFSET, YAMNET_OFFSET, log_mel, mel_matrix
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
