"""Sound nets of transformers, against the library's own extractors and whole models."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from extractors.audio.torchaudio_shim import import_torchaudio
from extractors.audio.transformers import HfAudioEncoder, load_hf_audio
from extractors.hf.model import find_hf_model
from extractors.hf.net import import_transformers, load_encoder
from extractors.windows import WindowGrid
from fixtures.hf import SOUNDS, Models

RATE = 16_000
SECOND = RATE


def sounds(count: int, samples: int = SECOND) -> np.ndarray:
    """Tones of different pitch in noise."""
    rng = np.random.default_rng(samples)
    time = np.arange(samples) / RATE
    tones = [np.sin(2 * np.pi * 220 * 2**n * time) * (0.2 + 0.1 * n) for n in range(count)]
    return (np.stack(tones) + 0.02 * rng.normal(size=(count, samples))).astype(np.float32)


def encoder(models: Models, name: str, threads: int = 1) -> HfAudioEncoder:
    model = find_hf_model(models.pair("clip", name), "audio")
    return load_hf_audio(model, torch.device("cpu"), grid=WindowGrid(), threads=threads)


def at_48_khz(sound: np.ndarray) -> np.ndarray:
    import_torchaudio()
    from torchaudio.functional import resample

    return resample(
        torch.from_numpy(sound).double(),
        RATE,
        48_000,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()


def by_hand(folder: Path, name: str, sound: np.ndarray) -> np.ndarray:
    """(1, D) of one window: the whole model behind its feature extractor."""
    t: Any = import_transformers()
    extractor = t.AutoFeatureExtractor.from_pretrained(folder)
    rate = 48_000 if name.startswith("clap") else RATE
    heard = at_48_khz(sound) if rate != RATE else sound
    inputs = extractor(heard, sampling_rate=rate, return_tensors="pt")
    with torch.inference_mode():
        if rate != RATE:
            model = t.ClapModel.from_pretrained(folder)
            features = inputs["input_features"].float()
            never = torch.zeros(len(features), 1, dtype=torch.bool)
            answer = model.get_audio_features(input_features=features, is_longer=never)
            return answer.pooler_output.numpy()
        if name == "ast":
            model = t.ASTForAudioClassification.from_pretrained(folder)
            return model.audio_spectrogram_transformer(**inputs).pooler_output.numpy()
        if name == "wav2vec2":
            model = t.Wav2Vec2ForCTC.from_pretrained(folder).wav2vec2
        else:
            model = t.AutoModel.from_pretrained(folder)
        return model(**inputs).last_hidden_state.mean(1).numpy()


@pytest.mark.parametrize("name", SOUNDS)
def test_a_vector_is_what_the_whole_model_says_behind_its_extractor(
    hf_models: Models, name: str
) -> None:
    net = encoder(hf_models, name)
    windows = sounds(3)
    got = net.embed(windows).embeddings
    expected = np.concatenate([by_hand(hf_models[name], name, sound) for sound in windows])
    assert got.shape == expected.shape == (3, net.spec.dim)
    # Random nets answer nearly alike to everything: what tells windows apart must be right.
    spread = np.abs(expected - expected[0])[1:].max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * spread)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", SOUNDS)
def test_a_batch_says_the_same_as_its_items_alone(hf_models: Models, name: str) -> None:
    net = encoder(hf_models, name, threads=2)
    windows = sounds(5)
    together = net.embed(windows).embeddings
    alone = np.concatenate([net.embed(window[None]).embeddings for window in windows])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("name", ["clap", "clap-fused"])
def test_clap_answers_the_same_every_time_and_in_unit_length(hf_models: Models, name: str) -> None:
    net = encoder(hf_models, name)
    first = net.embed(sounds(4)).embeddings
    for _ in range(4):  # its extractor draws an item at random
        np.testing.assert_array_equal(net.embed(sounds(4)).embeddings, first)
    assert net.spec.normalised
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)


def test_clap_repeats_a_sound_that_is_shorter_than_a_window(hf_models: Models) -> None:
    net = encoder(hf_models, "clap")
    short = sounds(1, 6_000)
    expected = by_hand(hf_models["clap"], "clap", short[0])
    np.testing.assert_allclose(net.embed(short).embeddings, expected, rtol=0, atol=1e-6)
    silent = net.embed(np.pad(short, ((0, 0), (0, SECOND - 6_000)))).embeddings
    assert np.abs(silent - expected).max() > 1e-4


@pytest.mark.parametrize("name", ["ast", "wav2vec2"])
def test_others_are_given_whole_windows_only(hf_models: Models, name: str) -> None:
    net = encoder(hf_models, name)
    assert net.spec.short_sound == "silence"
    with pytest.raises(ValueError, match=r"windows must be \(N, 16000\), got \(1, 9000\)"):
        net.embed(sounds(1, 9_000))


def test_silence_is_answered_with_numbers(hf_models: Models) -> None:
    for name in SOUNDS:
        answer = encoder(hf_models, name).embed(np.zeros((2, SECOND), np.float32)).embeddings
        assert np.isfinite(answer).all(), name


def test_the_description_names_the_rate_that_sound_is_brought_to(hf_models: Models) -> None:
    assert "resampled to 48000 Hz" in encoder(hf_models, "clap").spec.preprocessing
    assert "resampled to" not in encoder(hf_models, "ast").spec.preprocessing


def test_sound_is_prepared_while_other_nets_use_the_device(hf_models: Models) -> None:
    model = find_hf_model(hf_models.pair("clip", "ast"), "audio")
    extractor, _ = load_encoder(
        model, "feature extractor", "AutoFeatureExtractor", device=torch.device("cpu")
    )
    placed = []

    class Net(torch.nn.Module):
        def forward(self, input_values: torch.Tensor) -> Any:
            placed.append((input_values.device.type, input_values.dtype))
            return SimpleNamespace(pooler_output=torch.zeros(len(input_values), 2))

    both = threading.Barrier(2, timeout=30)

    def extract(sound: Any, **options: Any) -> Any:
        both.wait()  # passes only when both nets extract at once
        return extractor(sound, **options)

    def embed(_: int) -> int:
        # A device without a chip behind it; launching takes its turn as on others.
        net = HfAudioEncoder(
            Net(), model, extract, grid=WindowGrid(), device=torch.device("meta"), threads=1
        )
        return len(net.embed(sounds(2)).embeddings)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(embed, range(2))) == [2, 2]
    assert placed == [("meta", torch.float32)] * 2
