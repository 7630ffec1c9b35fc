"""What encoders may ask of the stream: whole stretches, an overhang, frames that they scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.spec import (
    Backbone,
    BackboneSpec,
    Encoded,
    EncoderSpec,
    FramePreparer,
    StretchEncoder,
    WeightsFile,
)
from extractors.stream import extract_features
from extractors.windows import WindowGrid
from fixtures.backbones import NO_WEIGHTS, Loudness, MeanColour, encoder_spec
from fixtures.media import Zoo

GRID = WindowGrid()
SIZE = (64, 48)


class Ends:
    """Embedding: the first and the last value of what the net is given."""

    class_names: tuple[str, ...] = ()

    def __init__(self, modality: Any, overhang: int) -> None:
        spec = encoder_spec(modality, unit="window", dim=2, classes=0)
        self.spec: EncoderSpec = replace(spec, overhang=overhang)

    def embed(self, windows: NDArray[Any]) -> Encoded:
        flat = windows.reshape(*windows.shape[:2], -1).astype(np.float64).mean(axis=2)
        return Encoded(flat[:, [0, -1]].astype(np.float32), None)


class PictureEnds(Ends):
    """Also cuts its frames to their middle half."""

    def __init__(self, overhang: int) -> None:
        super().__init__("vision", overhang)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return SIZE

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return frames[:, 12:36, 16:48]


class Stretched:
    """Adds to an encoder that it takes stretches, and keeps their lengths."""

    stride: int

    def embed_stretch(self, samples: NDArray[Any], count: int) -> Encoded:
        self.lengths = [*getattr(self, "lengths", []), (len(samples), count)]
        width = len(samples) - (count - 1) * self.stride
        windows = [samples[n * self.stride : n * self.stride + width] for n in range(count)]
        answer: Encoded = self.embed(np.stack(windows))  # type: ignore[attr-defined]
        return answer


class StretchedPictureEnds(Stretched, PictureEnds):
    stride = GRID.stride


class StretchedSoundEnds(Stretched, Ends):
    stride = GRID.stride_samples


def backbone(vision: Any, audio: Any) -> Backbone:
    return Backbone(BackboneSpec("ends", GRID, vision.spec, audio.spec), vision, audio)


@pytest.fixture
def frames(zoo: Zoo) -> NDArray[np.float32]:
    """Mean of each cut frame of the clip, on the grid."""
    info = probe(zoo["constant.mp4"].path)
    with open_video(info, fps=GRID.fps, size=SIZE) as reader:
        picture = np.concatenate([block.frames.copy() for block in reader])
    return picture[:, 12:36, 16:48].reshape(len(picture), -1).mean(axis=1).astype(np.float32)


@pytest.fixture
def sound(zoo: Zoo) -> NDArray[np.float32]:
    info = probe(zoo["constant.mp4"].path)
    with open_audio(info, sample_rate=GRID.sample_rate) as reader:
        return np.concatenate([block.copy() for block in reader])


@pytest.mark.parametrize("overhang", [0, 1, 7])
@pytest.mark.parametrize("stretched", [False, True])
def test_a_picture_net_sees_the_frames_past_its_window(
    zoo: Zoo, frames: NDArray[np.float32], overhang: int, stretched: bool
) -> None:
    """Beyond the last frame it sees that one again."""
    vision = (StretchedPictureEnds if stretched else PictureEnds)(overhang)
    assert isinstance(vision, FramePreparer)
    assert isinstance(vision, StretchEncoder) == stretched
    features = extract_features(zoo["constant.mp4"].path, backbone(vision, Loudness()))
    first = GRID.stride * np.arange(features.steps)
    last = np.minimum(first + GRID.window + overhang - 1, len(frames) - 1)
    expected = np.stack([frames[first], frames[last]], axis=1)
    np.testing.assert_allclose(features["vision"], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("overhang", [0, 240])
@pytest.mark.parametrize("stretched", [False, True])
def test_a_sound_net_hears_the_samples_past_its_window(
    zoo: Zoo, sound: NDArray[np.float32], overhang: int, stretched: bool
) -> None:
    """Beyond the last sample it hears silence."""
    audio = StretchedSoundEnds("audio", overhang) if stretched else Ends("audio", overhang)
    features = extract_features(zoo["constant.mp4"].path, backbone(MeanColour("window"), audio))
    first = GRID.stride_samples * np.arange(features.steps)
    padded = np.concatenate([sound, np.zeros(GRID.window_samples + overhang, np.float32)])
    last = first + GRID.window_samples + overhang - 1
    expected = np.stack([padded[first], padded[last]], axis=1)
    np.testing.assert_array_equal(features["audio"], expected)


def test_a_net_that_shares_is_given_many_windows_at_once(zoo: Zoo) -> None:
    vision, audio = StretchedPictureEnds(1), StretchedSoundEnds("audio", 240)
    features = extract_features(zoo["constant.mp4"].path, backbone(vision, audio))
    assert sum(count for _, count in vision.lengths) == features.steps
    assert sum(count for _, count in audio.lengths) == features.steps
    for length, count in vision.lengths:
        assert length == (count - 1) * GRID.stride + GRID.window + 1
    for length, count in audio.lengths:
        assert length == (count - 1) * GRID.stride_samples + GRID.window_samples + 240
    assert len(vision.lengths) <= 2  # the last window waits for the end, to know of its overhang


def test_the_description_of_a_net_with_overhang_and_more_files_survives_json() -> None:
    more = (WeightsFile("b.pt", 3, "", "MIT", "there"), NO_WEIGHTS)
    spec = replace(Ends("audio", 240).spec, more_weights=more)
    assert EncoderSpec.from_json(spec.to_json()) == spec
    assert spec.files == (NO_WEIGHTS, *more)
    plain = Ends("audio", 0).spec
    assert not {"overhang", "more_weights"} & set(plain.to_json())
