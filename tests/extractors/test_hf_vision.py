"""Picture nets of transformers, against the library's own processors and whole models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from extractors.hf.model import find_hf_model
from extractors.hf.net import import_transformers
from extractors.registry import load_backbone
from extractors.spec import FramePreparer
from extractors.vision.transformers import HfVisionEncoder, load_hf_vision
from extractors.windows import WindowGrid
from fixtures.hf import PICTURES, SIDE, Models, edit_json
from pipeline.core.errors import EnvironmentFault

CPU = torch.device("cpu")
SHAPES = [(48, 64), (64, 48), (17, 90), (SIDE, SIDE), (120, 213)]


def pictures(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    rough = rng.integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3))
    return np.kron(rough, np.ones((1, 4, 4, 1)))[:, :height, :width].astype(np.uint8)


def encoder(models: Models, name: str, threads: int = 1) -> HfVisionEncoder:
    model = find_hf_model(models.pair(name, "ast"), "vision")
    return load_hf_vision(model, CPU, grid=WindowGrid(), threads=threads)


def by_hand(folder: Path, name: str, frames: np.ndarray) -> np.ndarray:
    """(n, D) of frames, or (1, D) of a clip: the whole model behind its processor."""
    t: Any = import_transformers()
    processor = t.AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(list(frames), return_tensors="pt")
    with torch.inference_mode():
        if name == "clip":
            answer = t.CLIPModel.from_pretrained(folder).get_image_features(**inputs).pooler_output
        elif name == "siglip":
            model = t.SiglipModel.from_pretrained(folder)
            answer = model.get_image_features(**inputs).pooler_output
        elif name == "vit":
            model = t.ViTForImageClassification.from_pretrained(folder)
            answer = model.vit(**inputs).last_hidden_state[:, 0]
        elif name.startswith("dinov2"):
            answer = t.AutoModel.from_pretrained(folder)(**inputs).pooler_output
        else:
            model = t.VideoMAEForVideoClassification.from_pretrained(folder)
            answer = model.videomae(**inputs).last_hidden_state.mean(1)
    return answer.numpy()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_preparing_and_the_table_are_bit_by_bit_the_processor(
    hf_models: Models, name: str, shape: tuple[int, int]
) -> None:
    t: Any = import_transformers()
    processor = t.AutoImageProcessor.from_pretrained(hf_models[name], backend="pil")
    frames = pictures(3, *shape)
    expected = np.asarray(processor(list(frames), return_tensors="np")["pixel_values"])
    net = encoder(hf_models, name)
    prepared = net.prepare(frames)
    seen = []

    def look(pixel_values: torch.Tensor) -> None:
        seen.append(pixel_values.numpy())
        raise InterruptedError

    net._net = look  # type: ignore[assignment]
    whole = np.concatenate([prepared] * 6)[:16][None] if name == "videomae" else prepared
    with pytest.raises(InterruptedError):
        net.embed(whole)
    got = seen[0][:, :3] if name == "videomae" else seen[0]
    np.testing.assert_array_equal(got, expected.reshape(got.shape).astype(np.float32))
    assert prepared.dtype == np.uint8


@pytest.mark.parametrize("name", PICTURES)
def test_a_vector_is_what_the_whole_model_says_behind_its_processor(
    hf_models: Models, name: str
) -> None:
    net = encoder(hf_models, name)
    frames = pictures(16)
    prepared = net.prepare(frames)
    clip = net.spec.unit == "window"
    got = net.embed(prepared[None] if clip else prepared).embeddings
    expected = by_hand(hf_models[name], name, frames)
    assert got.shape == expected.shape == (1 if clip else 16, net.spec.dim)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    if not clip:
        assert np.abs(expected - expected[0])[1:].max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("name", PICTURES)
def test_a_batch_says_the_same_as_its_items_alone(hf_models: Models, name: str) -> None:
    net = encoder(hf_models, name, threads=2)
    frames = net.prepare(pictures(16 + 8))
    if net.spec.unit == "window":
        frames = np.stack([frames[first : first + 16] for first in (0, 4, 8)])
    together = net.embed(frames).embeddings
    alone = np.concatenate([net.embed(item[None]).embeddings for item in frames])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_a_video_net_sees_the_order_of_its_frames(hf_models: Models) -> None:
    net = encoder(hf_models, "videomae")
    window = net.prepare(pictures(16))[None]
    forth, back = net.embed(window).embeddings, net.embed(window[:, ::-1].copy()).embeddings
    assert np.abs(forth - back).max() > 1e-4 * np.abs(forth).max()


def test_frames_are_scaled_by_the_model_and_not_by_the_reader(hf_models: Models) -> None:
    net = encoder(hf_models, "clip")
    assert isinstance(net, FramePreparer)
    assert net.frame_size(1920, 1080) == (1920, 1080)
    assert net.prepare(pictures(2, 90, 160)).shape == (2, SIDE, SIDE, 3)


@pytest.mark.parametrize("shape", [(2, 48, 64, 3), (2, 16, SIDE, SIDE, 3), (SIDE, SIDE, 3)])
def test_frames_that_were_not_prepared_are_refused(
    hf_models: Models, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="frames must be"):
        encoder(hf_models, "clip").embed(np.zeros(shape, np.uint8))


def copy_of(models: Models, name: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in models[name].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_processor_that_keeps_the_aspect_is_refused(hf_models: Models, tmp_path: Path) -> None:
    folder = copy_of(hf_models, "clip", tmp_path / "clip")
    edit_json(folder / "preprocessor_config.json", do_center_crop=False)
    with pytest.raises(EnvironmentFault, match="pictures of several shapes"):
        load_backbone(f"hf:{folder}+{hf_models['ast']}", device="cpu", threads=1)


def test_a_processor_without_pillow_is_refused(
    hf_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    t: Any = import_transformers()
    other = SimpleNamespace(backend="torchvision")
    monkeypatch.setattr(t.AutoImageProcessor, "from_pretrained", lambda *_, **__: other)
    with pytest.raises(EnvironmentFault, match="scales pictures without Pillow"):
        encoder(hf_models, "clip")


def test_a_processor_of_another_size_than_the_net_is_refused(
    hf_models: Models, tmp_path: Path
) -> None:
    folder = copy_of(hf_models, "siglip", tmp_path / "siglip")
    edit_json(folder / "preprocessor_config.json", size={"height": 48, "width": 48})
    with pytest.raises(EnvironmentFault, match=f"pictures of 48x48, the net takes {SIDE}x{SIDE}"):
        load_backbone(f"hf:{folder}+{hf_models['ast']}", device="cpu", threads=1)


def test_weights_that_lack_a_tensor_are_refused_rather_than_invented(
    hf_models: Models, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(hf_models, "clip", tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentFault, match=r"lack 1 .* the first is visual_projection.weight"):
        load_backbone(f"hf:{folder}+{hf_models['ast']}", device="cpu", threads=1)


def test_damaged_weights_are_refused(hf_models: Models, tmp_path: Path) -> None:
    folder = copy_of(hf_models, "vit", tmp_path / "vit")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EnvironmentFault, match=r"the weights of .*vit cannot be loaded"):
        load_backbone(f"hf:{folder}+{hf_models['ast']}", device="cpu", threads=1)


def test_weights_of_other_measures_are_refused(hf_models: Models, tmp_path: Path) -> None:
    folder = copy_of(hf_models, "vit", tmp_path / "vit")
    edit_json(folder / "config.json", intermediate_size=40)
    with pytest.raises(EnvironmentFault, match=r"the weights of .*vit cannot be loaded"):
        load_backbone(f"hf:{folder}+{hf_models['ast']}", device="cpu", threads=1)
