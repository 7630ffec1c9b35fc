"""The whole way with a narrow ONE-PEACE: weights on disk, raw file, feature rows, store."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractors import registry
from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.registry import BackboneRow
from extractors.spec import Backbone, FramePreparer
from extractors.storage.store import FeatureStore
from extractors.stream import FeatureStream, extract_features
from extractors.vision.resize_opencv import resize_linear_and_crop
from fixtures.media import Zoo
from fixtures.onepeace import STREAM_SIZE, TINY_SPEC, tiny_loader, write_base, write_video

RATE = 16_000


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_base(folder)
    write_video(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return tiny_loader()(device="cpu", threads=2, weights_dir=weights)


def test_a_raw_file_becomes_rows_of_a_store(zoo: Zoo, backbone: Backbone, tmp_path: Path) -> None:
    path = zoo["constant.mp4"].path
    stream = FeatureStream(probe(path), backbone)
    store = FeatureStore.create(tmp_path / "store", TINY_SPEC)
    with store.writer("clip.mp4") as writer:
        for rows in stream:
            writer.append(rows)
        writer.finish(stream.summary)
    features = FeatureStore.open(tmp_path / "store", digest=TINY_SPEC.digest).read("clip.mp4")
    assert features.summary.status == "done"
    assert features["vision"].shape == features["audio"].shape == (features.steps, 64)
    assert features["vision_mask"].all()
    assert features["audio_mask"].all()
    assert "vision_scores" not in features.arrays
    np.testing.assert_allclose(np.linalg.norm(features["audio"], axis=1), 1.0, atol=1e-5)

    # Each row is what the nets say of its own 16 frames and 16,000 samples.
    video, grid = probe(path).video, TINY_SPEC.grid
    assert video is not None
    size = (video.width, video.height)
    with open_video(probe(path), fps=grid.fps, size=size) as reader:
        frames = np.concatenate([block.frames.copy() for block in reader])
    frames = resize_linear_and_crop(frames, side=STREAM_SIZE.image_side)
    with open_audio(probe(path), sample_rate=RATE) as reader:
        sound = np.concatenate([block.copy() for block in reader])
    for step in (0, features.steps // 2, features.steps - 1):
        seen = frames[4 * step : 4 * step + 16]
        heard = sound[4_000 * step : 4_000 * step + RATE]
        heard = np.pad(heard, (0, RATE - len(heard)))
        for name, expected in (
            ("vision", backbone.vision.embed(seen[None]).embeddings[0]),
            ("audio", backbone.audio.embed(heard[None]).embeddings[0]),
        ):
            tolerance = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(features[name][step], expected, rtol=0, atol=tolerance)


def test_the_row_of_the_table_takes_the_folder_of_the_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = BackboneRow(TINY_SPEC, tiny_loader())
    monkeypatch.setattr(registry, "BACKBONES", {"tiny-onepeace": row})
    loaded = registry.load_backbone("tiny-onepeace", device="cpu", threads=1, weights_dir=weights)
    assert loaded.spec == TINY_SPEC
    side = STREAM_SIZE.image_side
    assert isinstance(loaded.vision, FramePreparer)
    assert loaded.vision.prepare(np.zeros((2, 90, 160, 3), np.uint8)).shape == (2, side, side, 3)


def write_sound(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("samples", [9_000, 15_999])
def test_sound_shorter_than_a_window_reaches_the_net_unpadded(
    samples: int, backbone: Backbone, tmp_path: Path
) -> None:
    sound = np.random.default_rng(0).integers(-9000, 9000, samples)
    features = extract_features(write_sound(tmp_path / "short.wav", sound), backbone)
    heard = (sound / 32768).astype(np.float32)
    assert features.steps == 1
    np.testing.assert_allclose(
        features["audio"], backbone.audio.embed(heard[None]).embeddings, rtol=0, atol=1e-5
    )
    padded = np.pad(heard, (0, RATE - samples))
    if samples < 15_000:
        silent = backbone.audio.embed(padded[None]).embeddings
        assert np.abs(features["audio"] - silent).max() > 1e-3


def test_an_encoder_that_repeats_nothing_is_given_silence_behind(
    backbone: Backbone, tmp_path: Path
) -> None:
    sound = np.random.default_rng(0).integers(-9000, 9000, 9_000)
    path = write_sound(tmp_path / "short.wav", sound)
    lengths: list[int] = []

    class Measuring:
        class_names: tuple[str, ...] = ()
        spec = replace(backbone.audio.spec, short_sound="silence")

        def embed(self, windows: np.ndarray) -> object:
            lengths.append(windows.shape[1])
            return backbone.audio.embed(windows)

    extract_features(path, replace(backbone, audio=Measuring()))  # type: ignore[arg-type]
    assert lengths == [RATE]
