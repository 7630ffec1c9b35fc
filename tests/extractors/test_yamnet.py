"""YAMNet with its real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.audio.yamnet import YAMNetEncoder, YAMNetNet, audioset_classes, load_yamnet

SECOND = np.arange(16_000) / 16_000


@pytest.fixture(scope="module")
def encoder() -> YAMNetEncoder:
    return load_yamnet(torch.device("cpu"), threads=2)


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "backbones/yamnet_golden.npz"))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def names(encoder: YAMNetEncoder, sound: np.ndarray, *, best: int = 3) -> list[str]:
    scores = encoder.embed(sound[None].astype(np.float32)).scores
    assert scores is not None
    return [encoder.class_names[index] for index in np.argsort(-scores[0])[:best]]


def test_the_net_equals_its_own_graph_run_by_onnxruntime(
    encoder: YAMNetEncoder, reference: dict[str, np.ndarray], golden: Path
) -> None:
    graph = np.load(golden / "backbones/yamnet_graph.npz")
    answer = encoder.embed_patches(reference["input"])
    np.testing.assert_allclose(answer.embeddings, graph["embedding"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(answer.scores, sigmoid(graph["logits"]), rtol=0, atol=1e-5)


def test_scores_agree_with_the_other_training_on_real_speech(
    encoder: YAMNetEncoder, reference: dict[str, np.ndarray]
) -> None:
    speech = list(reference["names"]).index("coral_test_spectra")
    scores = encoder.embed_patches(reference["input"][speech : speech + 1]).scores
    assert scores is not None
    assert cosine(scores[0], reference["scores"][speech]) > 0.99
    assert encoder.class_names[int(scores[0].argmax())] == "Speech"


def test_the_architecture_equals_the_reference_on_the_reference_weights(
    reference: dict[str, np.ndarray], shared: Callable[[str], Path]
) -> None:
    weights = np.load(shared("weights/yamnet_coral_int8.npz"))
    layers = [name.removesuffix(".weight_int8") for name in weights if name.endswith("_int8")]

    def dequantised(layer: str) -> tuple[Tensor, Tensor]:
        integers = weights[f"{layer}.weight_int8"].astype(np.float32)
        scale = weights[f"{layer}.weight_scale"].reshape((-1,) + (1,) * (integers.ndim - 1))
        return torch.from_numpy(integers * scale), torch.from_numpy(weights[f"{layer}.bias"])

    net = YAMNetNet()
    with torch.inference_mode():
        x = torch.from_numpy(reference["input"])[:, None]
        for name, layer in zip(layers[:-1], net.layers, strict=True):
            weight, bias = dequantised(name)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
            x = layer(x).clamp(max=6)  # that training has ReLU6 where ours has ReLU
        embedding = x.mean(dim=(2, 3))
        weight, bias = dequantised(layers[-1])
        scores = (embedding @ weight.T + bias).sigmoid()
    np.testing.assert_allclose(embedding.numpy(), reference["embedding"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores.numpy(), reference["scores"], rtol=0, atol=1e-4)


def test_a_batch_equals_its_windows_one_by_one(encoder: YAMNetEncoder) -> None:
    windows = 0.1 * np.random.default_rng(0).standard_normal((37, 16_000)).astype(np.float32)
    together = encoder.embed(windows)
    alone = np.concatenate([encoder.embed(window[None]).embeddings for window in windows])
    np.testing.assert_allclose(together.embeddings, alone, rtol=0, atol=1e-5)


def test_what_is_heard_is_the_middle_of_the_window(encoder: YAMNetEncoder) -> None:
    window = 0.1 * np.random.default_rng(1).standard_normal((1, 16_000)).astype(np.float32)
    louder_outside = window.copy()
    louder_outside[:, :200] = louder_outside[:, 15_800:] = 1.0
    louder_inside = window.copy()
    louder_inside[:, 205:240] = 1.0
    embedding = encoder.embed(window).embeddings
    np.testing.assert_array_equal(encoder.embed(louder_outside).embeddings, embedding)
    assert np.abs(encoder.embed(louder_inside).embeddings - embedding).max() > 1e-6


def test_no_windows_give_no_rows(encoder: YAMNetEncoder) -> None:
    answer = encoder.embed(np.zeros((0, 16_000), dtype=np.float32))
    assert answer.embeddings.shape == (0, 1024)


def test_windows_of_another_length_are_refused(encoder: YAMNetEncoder) -> None:
    with pytest.raises(ValueError, match=r"\(N, 16000\)"):
        encoder.embed(np.zeros((1, 15_600), dtype=np.float32))


@pytest.mark.parametrize(
    ("sound", "name"),
    [
        (np.zeros(16_000), "Silence"),
        (np.sin(2 * np.pi * 440 * SECOND), "Dial tone"),
        (np.sin(2 * np.pi * 1000 * SECOND), "Sine wave"),
        (np.random.RandomState(0).uniform(-1, 1, 16_000), "White noise"),
        (np.random.RandomState(0).uniform(-1, 1, 16_000), "Noise"),
    ],
    ids=["silence", "440-hz", "1000-hz", "white-noise", "noise"],
)
def test_synthetic_sounds_are_named(encoder: YAMNetEncoder, sound: np.ndarray, name: str) -> None:
    assert name in names(encoder, sound)


def test_classes_are_named_in_audiosets_order() -> None:
    table = audioset_classes()
    assert len(set(table)) == 521
    landmarks = {0: "Speech", 70: "Bark", 132: "Music", 494: "Silence", 520: "Field recording"}
    assert {index: table[index] for index in landmarks} == landmarks
