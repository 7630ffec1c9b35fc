"""Text towers, against the library's whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.hf.model import find_hf_model
from extractors.hf.net import import_transformers
from extractors.registry import load_backbone
from extractors.spec import Modality
from extractors.text import load_text_encoder
from fixtures.hf import Models, edit_json
from pipeline.core.errors import EnvironmentFault, UsageError

TEXTS = ["a photo of a dog barking", "chainsaw", "the sound of the rain!", "a dog"]
CASES: list[tuple[str, str, Modality]] = [
    ("clip", "clap", "vision"),
    ("siglip", "ast", "vision"),
    ("clip", "clap", "audio"),
    ("clip", "clap-fused", "audio"),
]


def whole_model(folder: Path, name: str) -> Any:
    t: Any = import_transformers()
    kind = {"clip": t.CLIPModel, "siglip": t.SiglipModel}.get(name, t.ClapModel)
    return kind.from_pretrained(folder)


def by_hand(folder: Path, name: str, texts: list[str]) -> np.ndarray:
    t: Any = import_transformers()
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    if name == "siglip":
        tokens = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
        given = {"input_ids": tokens["input_ids"]}
    else:
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        given = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        answer = whole_model(folder, name).get_text_features(**given).pooler_output
    return torch.nn.functional.normalize(answer, dim=-1).numpy()


@pytest.mark.parametrize(("vision", "audio", "which"), CASES)
def test_a_text_is_what_the_whole_model_says(
    hf_models: Models, vision: str, audio: str, which: Modality
) -> None:
    name = vision if which == "vision" else audio
    encoder = load_text_encoder(hf_models.pair(vision, audio), which=which, threads=1)
    got = encoder.encode(TEXTS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(hf_models[name], name, TEXTS), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert np.abs(got - got[0])[1:].max() > 1e-2


@pytest.mark.parametrize(("vision", "audio", "which"), CASES)
def test_a_text_says_the_same_alone_and_beside_longer_ones(
    hf_models: Models, vision: str, audio: str, which: Modality
) -> None:
    encoder = load_text_encoder(hf_models.pair(vision, audio), which=which, threads=2)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS * 5])
    np.testing.assert_allclose(encoder.encode(TEXTS * 5), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip", "clap"])
def test_scores_are_those_of_the_whole_model(hf_models: Models, name: str) -> None:
    """Features of the store, texts, scale and bias together make the model's own logits."""
    t: Any = import_transformers()
    folder = hf_models[name]
    which: Modality = "audio" if name == "clap" else "vision"
    pair = hf_models.pair("clip", "clap") if name == "clap" else hf_models.pair(name, "ast")
    backbone = load_backbone(pair, device="cpu", threads=1)
    encoder = load_text_encoder(pair, which=which, threads=1)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    length = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    inputs = dict(tokenizer(TEXTS, return_tensors="pt", **length))
    inputs.pop("token_type_ids", None)
    rng = np.random.default_rng(0)
    if name == "clap":
        sound = rng.normal(size=(3, 48_000)).astype(np.float32)[:, ::3]
        features = backbone.audio.embed(np.ascontiguousarray(sound)).embeddings
        extractor = t.AutoFeatureExtractor.from_pretrained(folder)
        model = find_hf_model(pair, "audio")
        assert model.sample_rate == 48_000
        heard = backbone.audio._resample(torch.from_numpy(sound)).numpy()  # type: ignore[attr-defined]
        given = extractor(list(heard), sampling_rate=48_000, return_tensors="pt")
        inputs["input_features"] = given["input_features"].float()
    else:
        frames = rng.integers(0, 256, (3, 40, 60, 3)).astype(np.uint8)
        prepared = backbone.vision.prepare(frames)  # type: ignore[attr-defined]
        features = backbone.vision.embed(prepared).embeddings
        processor = t.AutoImageProcessor.from_pretrained(folder, backend="pil")
        inputs |= processor(list(frames), return_tensors="pt")
        if name == "siglip":
            inputs.pop("attention_mask")
    with torch.inference_mode():
        answer = whole_model(folder, name)(**inputs)
    expected = answer.logits_per_audio if name == "clap" else answer.logits_per_image
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    got = encoder.logit_scale * units @ encoder.encode(TEXTS).T + (encoder.logit_bias or 0.0)
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-4)
    assert encoder.kind == ("sigmoid" if name == "siglip" else "softmax")
    assert (encoder.logit_bias is not None) == (name == "siglip")


def test_a_text_that_is_too_long_is_cut_off(hf_models: Models) -> None:
    for vision, audio, which in CASES:
        encoder = load_text_encoder(hf_models.pair(vision, audio), which=which, threads=1)
        long = encoder.encode(["dog " * 14, "dog " * 200])
        np.testing.assert_allclose(long[0], long[1], rtol=0, atol=1e-5)


def test_no_text_is_no_row(hf_models: Models) -> None:
    encoder = load_text_encoder(hf_models.pair("clip", "clap"), which="vision", threads=1)
    assert encoder.encode([]).shape == (0, 20)


@pytest.mark.parametrize(
    ("vision", "audio", "which", "said"),
    [
        ("videomae", "clap", "vision", "a videomae, has no text tower .*: clip, siglip"),
        ("clip", "wav2vec2", "audio", "a wav2vec2, has no text tower .*: clap"),
    ],
)
def test_a_model_without_texts_is_named(
    hf_models: Models, vision: str, audio: str, which: Modality, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        load_text_encoder(hf_models.pair(vision, audio), which=which)


def test_other_backbones_have_no_texts() -> None:
    with pytest.raises(UsageError, match="'lite' has no text encoder"):
        load_text_encoder("lite", which="vision")


def test_a_model_without_its_tokenizer_is_refused(hf_models: Models, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for file in hf_models["clip"].iterdir():
        if not file.name.startswith("tokenizer"):
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EnvironmentFault, match=r"the tokenizer of .*clip is missing"):
        load_text_encoder(f"hf:{folder}+{hf_models['clap']}", which="vision")


def test_weights_of_one_tower_alone_are_refused(hf_models: Models, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "clip"
    folder.mkdir()
    for file in hf_models["clip"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    pictures = {name: value for name, value in tensors.items() if not name.startswith("text_")}
    save_file(pictures, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentFault, match=r"lack .* tensors of CLIPTextModelWithProjection"):
        load_text_encoder(f"hf:{folder}+{hf_models['clap']}", which="vision")
    del tensors["logit_scale"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", transformers_version=None)
    with pytest.raises(EnvironmentFault, match="lack logit_scale: they are those of one tower"):
        load_text_encoder(f"hf:{folder}+{hf_models['clap']}", which="vision")
