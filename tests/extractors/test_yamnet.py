"""YAMNet with its real weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.audio.mel import log_mel
from extractors.audio.yamnet import YAMNetEncoder, YAMNetNet, audioset_classes, load_yamnet
from extractors.grids import GRIDS
from extractors.lite_spec import GOOGLE_YAMNET, LITE
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import Backbone
from extractors.stream import extract_features
from fixtures.backbones import MeanColour
from fixtures.media import Zoo
from fixtures.tflite import DENSE, Constant, write_tflite
from pipeline.core.errors import EnvironmentFault

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


def assert_close(ours: Tensor | np.ndarray | None, theirs: np.ndarray) -> None:
    """Within 1e-5 of the largest value."""
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


def names(encoder: YAMNetEncoder, sound: np.ndarray, *, best: int = 3) -> list[str]:
    scores = encoder.embed(sound[None].astype(np.float32)).scores
    assert scores is not None
    return [encoder.class_names[index] for index in np.argsort(-scores[0])[:best]]


def test_the_net_equals_its_own_graph_run_by_onnxruntime(
    encoder: YAMNetEncoder, reference: dict[str, np.ndarray], golden: Path
) -> None:
    graph = np.load(golden / "backbones/yamnet_graph.npz")
    answer = encoder.embed_patches(reference["input"])
    assert_close(answer.embeddings, graph["embedding"])
    assert_close(answer.scores, sigmoid(graph["logits"]))


def test_scores_agree_with_the_other_training_on_real_speech(
    encoder: YAMNetEncoder, reference: dict[str, np.ndarray]
) -> None:
    speech = list(reference["names"]).index("coral_test_spectra")
    scores = encoder.embed_patches(reference["input"][speech : speech + 1]).scores
    assert scores is not None
    for key in ("scores", "scores_tflite_int8"):
        assert cosine(scores[0], reference[key][speech]) > 0.99
    assert encoder.class_names[int(scores[0].argmax())] == "Speech"


def test_the_architecture_equals_the_reference_on_the_reference_weights(
    reference: dict[str, np.ndarray], shared: Callable[[str], Path]
) -> None:
    weights = np.load(shared("weights/yamnet_coral_int8.npz"))
    layers = [name.removesuffix(".weight_int8") for name in weights if name.endswith("_int8")]
    state = {}
    for index, layer in enumerate(layers):
        integers = weights[f"{layer}.weight_int8"].astype(np.float32)
        scale = weights[f"{layer}.weight_scale"].reshape((-1,) + (1,) * (integers.ndim - 1))
        own = "classifier" if layer == layers[-1] else f"layers.{index}"
        state[f"{own}.weight"] = torch.from_numpy(integers * scale)
        state[f"{own}.bias"] = torch.from_numpy(weights[f"{layer}.bias"])
    net = YAMNetNet(relu6=True)
    net.load_state_dict(state, strict=True)
    with torch.inference_mode():
        embedding, logits = net(torch.from_numpy(reference["input"])[:, None])
    assert_close(embedding, reference["embedding"])
    assert_close(logits.sigmoid(), reference["scores"])


@pytest.fixture(scope="module")
def google(
    shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> YAMNetEncoder:
    """The net with the weights of Google's export, out of the file as it is published."""
    folder = tmp_path_factory.mktemp("google")
    published = shared("weights/yamnet_cls_meta.tflite")
    (folder / GOOGLE_YAMNET.weights.file).symlink_to(published)
    backbone = load_backbone("lite-google", device="cpu", threads=2, weights_dir=folder)
    assert isinstance(backbone.audio, YAMNetEncoder)
    return backbone.audio


def test_googles_export_reproduces_the_reference(
    google: YAMNetEncoder, reference: dict[str, np.ndarray]
) -> None:
    """That was made with another export of the same net, whose biases are rounded otherwise."""
    answer = google.embed_patches(reference["input"])
    assert answer.scores is not None
    for ours, theirs in (
        *zip(answer.embeddings, reference["embedding"], strict=True),
        *zip(answer.scores, reference["scores"], strict=True),
    ):
        assert cosine(ours, theirs) > 0.99999
    for ours, in_bytes in zip(answer.scores, reference["scores_tflite_int8"], strict=True):
        assert cosine(ours, in_bytes) > 0.99


def test_googles_export_is_a_backbone_of_its_own(google: YAMNetEncoder) -> None:
    assert google.spec == backbone_spec("lite-google").audio
    digests = {
        backbone_spec(f"{g}{name}").digest for g in GRIDS for name in ("lite", "lite-google")
    }
    assert len(digests) == 4


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / GOOGLE_YAMNET.weights.file
    spec = replace(GOOGLE_YAMNET, weights=replace(GOOGLE_YAMNET.weights, bytes=0, sha256=""))
    for content in (b"", b"    TFL3", b"    TFL3" + bytes(100), b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(EnvironmentFault, match=r"is refused: it is (no TensorFlow|cut off)"):
            load_yamnet(torch.device("cpu"), spec=spec, weights_dir=tmp_path)
    matrix = Constant(np.ones((4, 2), "i1"), (0.5,)), Constant(np.ones(4, "<i4"), (0.5,))
    write_tflite(path, [(DENSE, matrix)])
    with pytest.raises(
        EnvironmentFault, match=r"another net: 54 tensors are missing.* have another"
    ):
        load_yamnet(torch.device("cpu"), spec=spec, weights_dir=tmp_path)


def test_a_batch_equals_its_windows_one_by_one(encoder: YAMNetEncoder) -> None:
    windows = 0.1 * np.random.default_rng(0).standard_normal((37, 16_000)).astype(np.float32)
    together = encoder.embed(windows)
    alone = np.concatenate([encoder.embed(window[None]).embeddings for window in windows])
    np.testing.assert_allclose(together.embeddings, alone, rtol=0, atol=1e-5)


def test_windows_in_a_row_equal_their_windows_one_by_one(encoder: YAMNetEncoder) -> None:
    sound = 0.1 * np.random.default_rng(2).standard_normal(36 * 4000 + 16_000).astype(np.float32)
    windows = np.stack([sound[n * 4000 : n * 4000 + 16_000] for n in range(37)])
    stretch, alone = encoder.embed_stretch(sound, 37), encoder.embed(windows)
    assert_close(stretch.embeddings, alone.embeddings)
    assert alone.scores is not None
    assert_close(stretch.scores, alone.scores)


def test_mels_are_computed_once_whatever_the_overlap(
    encoder: YAMNetEncoder, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 s, the last tenth of a second lies behind the middle of the last window."""
    computed: list[tuple[int, ...]] = []

    def counting(sound: np.ndarray, *, offset: float) -> np.ndarray:
        frames = log_mel(sound, offset=offset)
        computed.append(frames.shape[:-1])
        return frames

    monkeypatch.setattr("extractors.audio.mel.log_mel", counting)
    monkeypatch.setattr("extractors.audio.yamnet.log_mel", counting)
    features = extract_features(zoo["audio_only.wav"].path, Backbone(LITE, MeanColour(), encoder))
    assert features["audio_mask"].all()
    assert sum(int(np.prod(shape)) for shape in computed) <= 5 * 100


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
