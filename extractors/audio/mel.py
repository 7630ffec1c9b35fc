"""The log-mel front end that VGGish and YAMNet share.

16 kHz mono; frames of 400 samples every 160; periodic Hann; magnitude (not power) of a 512-point
Fourier transform; 64 triangular bands, 125 to 7500 Hz, linear in HTK mel (1127 ln(1 + f / 700)),
not area-normalised; ln(mel + offset). No padding: frame i starts at sample 160 i. Everything is
float64.

Source: the published VGGish and YAMNet feature code of AudioSet (constants and formulas only).
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

SAMPLE_RATE = 16_000
FRAME = 400
HOP = 160
FFT = 512
BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0

VGGISH_OFFSET = 0.01
YAMNET_OFFSET = 0.001

PATCH_FRAMES = 96  # that VGGish and YAMNet see at once
FRAMES_PER_SECOND = SAMPLE_RATE // HOP


def log_mel(waveforms: ArrayLike, *, offset: float) -> NDArray[np.float64]:
    """Log-mel spectrogram.

    Args:
        waveforms: (..., S) mono sound in [-1, 1] at 16 kHz.
        offset: Added before the logarithm: `VGGISH_OFFSET` or `YAMNET_OFFSET`.

    Returns:
        (..., 1 + floor((S - 400) / 160), 64), earliest frame and lowest band first.

    Raises:
        ValueError: Less than one frame of sound.
    """
    sound = np.asarray(waveforms, dtype=np.float64)
    if sound.ndim == 0 or sound.shape[-1] < FRAME:
        raise ValueError(f"sound of shape {sound.shape} is shorter than one frame, {FRAME} samples")
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME, axis=-1)[..., ::HOP, :]
    magnitude = np.abs(np.fft.rfft(frames * hann(), FFT))
    return np.log(_sum_bands(magnitude) + offset)


def log_mel_patches(
    waveform: ArrayLike, *, offset: float, hop_seconds: float = PATCH_FRAMES / FRAMES_PER_SECOND
) -> NDArray[np.float64]:
    """Patches of 96 frames out of one log-mel spectrogram, as the published extractors cut them.

    Patch i begins ``i * hop_seconds`` after the first sample. Frames are computed once, whatever
    the overlap. The rest that fills no patch is dropped.

    Args:
        waveform: (S,) mono sound in [-1, 1] at 16 kHz.
        offset: Added before the logarithm: `VGGISH_OFFSET` or `YAMNET_OFFSET`.
        hop_seconds: Seconds from one patch to the next, rounded to whole frames of 10 ms; 0.96 as
            published, 0.32 for UnAV-100.

    Returns:
        (N, 96, 64), N = 1 + floor((frames - 96) / hop); N = 0 below 15,600 samples.

    Raises:
        ValueError: The hop is shorter than a frame.
    """
    hop = round(hop_seconds * FRAMES_PER_SECOND)
    if hop < 1:
        raise ValueError(f"hop_seconds={hop_seconds} is shorter than a frame of 0.01 s")
    sound = np.asarray(waveform, dtype=np.float64)
    if sound.shape[-1] < (PATCH_FRAMES - 1) * HOP + FRAME:
        return np.zeros((0, PATCH_FRAMES, BANDS))
    return _patches(log_mel(sound, offset=offset), hop)


class RunningLogMel:
    """Patches of stretches of sound that are handed on one by one; no frame is computed twice.

    Stretches of one sound overlap by what their last windows still hear. Each thread, and so each
    file in flight, remembers the frames of that end. They are used again where the next stretch
    begins with the very same samples, and so are right for whatever comes.

    Args:
        offset: Added before the logarithm: `VGGISH_OFFSET` or `YAMNET_OFFSET`.
    """

    def __init__(self, *, offset: float) -> None:
        self._offset = offset
        self._memory = threading.local()

    def patches(
        self, samples: NDArray[np.float32], count: int, *, stride: int
    ) -> NDArray[np.float64]:
        """Log-mel of windows that follow each other.

        Args:
            samples: (S,) mono sound in [-1, 1] at 16 kHz, from the first of what they hear on.
            count: Number N of windows.
            stride: Samples from one to the next, whole frames of mel.

        Returns:
            (N, 96, 64).

        Raises:
            ValueError: There is not enough sound, or the stride is no whole number of frames.
        """
        if stride % HOP or len(samples) < (count - 1) * stride + (PATCH_FRAMES - 1) * HOP + FRAME:
            raise ValueError(f"{len(samples)} samples for {count} windows every {stride}")
        frames = self._frames(samples)
        following = count * stride  # where the next stretch of this sound would begin
        self._memory.sound = samples[following:].copy()
        self._memory.frames = frames[following // HOP :]
        return _patches(frames, stride // HOP)[:count]

    def _frames(self, samples: NDArray[np.float32]) -> NDArray[np.float64]:
        """(frames, 64) of a stretch; those that are remembered are taken from there."""
        known: NDArray[np.float64] = getattr(self._memory, "frames", np.zeros((0, BANDS)))
        if not len(known) or not np.array_equal(
            samples[: len(self._memory.sound)], self._memory.sound
        ):
            return log_mel(samples, offset=self._offset)
        rest = samples[len(known) * HOP :]
        if len(rest) < FRAME:
            return known
        return np.concatenate([known, log_mel(rest, offset=self._offset)])


def _patches(frames: NDArray[np.float64], hop: int) -> NDArray[np.float64]:
    """(F, 64) frames to (N, 96, 64), a patch every ``hop`` frames."""
    patches = np.lib.stride_tricks.sliding_window_view(frames, PATCH_FRAMES, axis=0)[::hop]
    return patches.transpose(0, 2, 1)


@lru_cache(maxsize=1)
def hann() -> NDArray[np.float64]:
    """Periodic Hann window, (400,): 0.5 - 0.5 cos(2 pi n / 400)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi / FRAME * np.arange(FRAME))


@lru_cache(maxsize=1)
def mel_matrix() -> NDArray[np.float64]:
    """Weights from magnitude bins to mel bands, (257, 64); the DC bin counts for no band."""
    bins = hertz_to_mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))
    lowest, highest = hertz_to_mel(np.array([LOWEST_HZ, HIGHEST_HZ]))
    edges = np.linspace(lowest, highest, BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - lower) / (centre - lower)
    falling = (upper - bins[:, None]) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights


@lru_cache(maxsize=1)
def _bands() -> tuple[tuple[slice, NDArray[np.float64]], ...]:
    """Bins of each band and their weights: what is not zero in `mel_matrix`."""
    columns = mel_matrix().T
    spans = [np.flatnonzero(column) for column in columns]
    slices = [slice(int(span[0]), int(span[-1]) + 1) for span in spans]
    return tuple((bins, column[bins]) for bins, column in zip(slices, columns, strict=True))


def _sum_bands(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """``magnitude @ mel_matrix()``, (..., 257) to (..., 64), over the 3 % that is not zero.

    A matrix product would be shared out among all cores by the BLAS library, whose threads wait
    for each other; beside a decoder that costs many times what the sum does.
    """
    by_bin = np.ascontiguousarray(magnitude.reshape(-1, magnitude.shape[-1]).T)
    bands = np.empty((BANDS, by_bin.shape[1]))
    for band, (bins, weights) in enumerate(_bands()):
        np.einsum("k,kf->f", weights, by_bin[bins], out=bands[band])
    return bands.T.reshape(*magnitude.shape[:-1], BANDS)


def hertz_to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """HTK mel of a frequency: 1127 ln(1 + f / 700)."""
    return 1127.0 * np.log1p(hertz / 700.0)
