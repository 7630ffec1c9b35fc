"""Weights of transformers models in both formats, whole and in parts, and bad ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from extractors.hf.model import find_hf_model
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import Backbone, FramePreparer
from extractors.text import load_text_encoder
from fixtures.hf import (
    PICKLED,
    PICTURES,
    SOUNDS,
    WHOLE,
    Models,
    edit_json,
    in_parts,
    in_torch_format,
)
from pipeline.core.errors import EnvironmentFault

Change = Callable[[Path], None]


def copy_of(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def features(backbone: Backbone) -> tuple[np.ndarray, np.ndarray]:
    """What both encoders say of noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (16, 48, 64, 3), dtype=np.uint8)
    assert isinstance(backbone.vision, FramePreparer)
    prepared = backbone.vision.prepare(frames)
    if backbone.vision.spec.unit == "window":
        prepared = prepared[None]
    sound = 0.1 * rng.standard_normal((2, 16_000)).astype(np.float32)
    return backbone.vision.embed(prepared).embeddings, backbone.audio.embed(sound).embeddings


def load(name: str) -> Backbone:
    return load_backbone(name, device="cpu", threads=1)


# --- both formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("vision", "audio"), list(zip(PICTURES, SOUNDS, strict=True)))
def test_features_are_those_of_the_other_format(
    hf_models: Models, tmp_path: Path, vision: str, audio: str
) -> None:
    folders = [copy_of(hf_models[name], tmp_path / name) for name in (vision, audio)]
    in_torch_format(folders[0])
    in_torch_format(folders[1], zipped=False)
    pickled = load(f"hf:{folders[0]}+{folders[1]}")
    assert [pickled.spec.vision.weights.file, pickled.spec.audio.weights.file] == [PICKLED] * 2
    for got, expected in zip(
        features(pickled), features(load(hf_models.pair(vision, audio))), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_features_are_those_of_the_whole_when_weights_come_in_parts(
    hf_models: Models, tmp_path: Path, suffix: str
) -> None:
    folder = copy_of(hf_models["clip"], tmp_path / "clip")
    files = in_parts(folder, suffix)
    divided = load(f"hf:{folder}+{hf_models['ast']}")
    assert [weights.file for weights in divided.spec.vision.files] == files
    expected = load(hf_models.pair("clip", "ast"))
    np.testing.assert_array_equal(features(divided)[0], features(expected)[0])


@pytest.mark.parametrize("name", ["clip", "siglip", "clap"])
def test_texts_are_those_of_the_other_format(hf_models: Models, tmp_path: Path, name: str) -> None:
    folder = copy_of(hf_models[name], tmp_path / name)
    in_torch_format(folder)
    sound = name == "clap"
    pairs = [f"hf:a/b+{f}" if sound else f"hf:{f}+a/b" for f in (hf_models[name], folder)]
    which: Any = "audio" if sound else "vision"
    whole, pickled = (load_text_encoder(pair, which=which, device="cpu") for pair in pairs)
    assert pickled.logit_scale == whole.logit_scale
    assert pickled.logit_bias == whole.logit_bias
    texts = ["a dog barking", "rain"]
    np.testing.assert_array_equal(pickled.encode(texts), whole.encode(texts))


def test_half_precision_is_widened_alike(hf_models: Models, tmp_path: Path) -> None:
    got = []
    for form in ("bin", "safetensors"):
        folder = copy_of(hf_models["vit"], tmp_path / form)
        halves = {name: tensor.half() for name, tensor in load_file(folder / WHOLE).items()}
        if form == "bin":
            (folder / WHOLE).unlink()
            torch.save(halves, folder / PICKLED)
        else:
            save_file(halves, folder / WHOLE, metadata={"format": "pt"})
        got.append(features(load(f"hf:{folder}+{hf_models['ast']}"))[0])
    np.testing.assert_array_equal(*got)


def test_names_of_older_files_are_understood(hf_models: Models, tmp_path: Path) -> None:
    """The hub's wav2vec2 files call the two parts of a normalised weight weight_g and weight_v."""
    folder = copy_of(hf_models["wav2vec2"], tmp_path / "wav2vec2")
    tensors = load_file(folder / WHOLE)
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert older.keys() != tensors.keys()
    (folder / WHOLE).unlink()
    torch.save(older, folder / PICKLED)
    got = features(load(f"hf:{hf_models['vit']}+{folder}"))[1]
    expected = features(load(hf_models.pair("vit", "wav2vec2")))[1]
    np.testing.assert_array_equal(got, expected)


def test_safetensors_are_taken_where_both_are_there(hf_models: Models, tmp_path: Path) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    (folder / PICKLED).write_bytes(b"not even a pickle")
    name = f"hf:{folder}+{hf_models['ast']}"
    assert load(name).spec.digest == backbone_spec(hf_models.pair("vit", "ast")).digest


def test_the_files_that_were_hashed_are_those_that_are_loaded(
    hf_models: Models, tmp_path: Path
) -> None:
    """A configuration can name another weights file; it would not be a part of the digest."""
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    others = {name: 0 * tensor for name, tensor in load_file(folder / WHOLE).items()}
    save_file(others, folder / "others.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", transformers_weights="others.safetensors")
    got = features(load(f"hf:{folder}+{hf_models['ast']}"))[0]
    np.testing.assert_array_equal(got, features(load(hf_models.pair("vit", "ast")))[0])


def test_a_net_holds_no_copy_of_weights_that_lie_on_their_boundaries(
    hf_models: Models, tmp_path: Path
) -> None:
    from extractors.hf.state import open_state

    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    in_torch_format(folder)
    model = find_hf_model(f"hf:{folder}+a/b", "vision")
    with open_state(model.folder) as state:
        name = next(iter(state))
        first, again = state[name], state[name]
    assert first.data_ptr() == again.data_ptr()
    before = (folder / PICKLED).read_bytes()
    first.fill_(7)
    assert (folder / PICKLED).read_bytes() == before


# --- bad ones -------------------------------------------------------------------------------------


class Attack:
    """Makes a folder when it is unpickled by one that imports."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def refuse(hf_models: Models, folder: Path, said: str) -> None:
    with pytest.raises(EnvironmentFault, match=said):
        load(f"hf:{folder}+{hf_models['ast']}")


@pytest.mark.parametrize("layout", ["zip", "older", "bare"])
def test_a_pickle_that_asks_for_code_is_refused_and_not_run(
    hf_models: Models, tmp_path: Path, layout: str
) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    ran = tmp_path / "ran"
    content: dict[str, Any] = dict(load_file(folder / WHOLE)) | {"extra": Attack(ran)}
    (folder / WHOLE).unlink()
    if layout == "bare":
        (folder / PICKLED).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / PICKLED, _use_new_zipfile_serialization=layout == "zip")
    refuse(
        hf_models, folder, r"pytorch_model\.bin is refused: its pickle asks for (posix|nt)\.mkdir"
    )
    assert not ran.exists()


def test_a_part_that_asks_for_code_is_refused_and_not_run(
    hf_models: Models, tmp_path: Path
) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    file = in_parts(folder, "bin")[1]
    torch.save({"extra": Attack(tmp_path / "ran")}, folder / file)
    refuse(hf_models, folder, rf"{file} is refused: its pickle asks for ")
    assert not (tmp_path / "ran").exists()


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def flip(path: Path) -> None:
    """Change one bit of the values of a tensor, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("change", [cut, flip])
def test_damaged_torch_files_are_refused(hf_models: Models, tmp_path: Path, change: Change) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    in_torch_format(folder)
    change(folder / PICKLED)
    refuse(
        hf_models, folder, r"the weights of .*vit cannot be loaded: pytorch_model\.bin is refused"
    )


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_part_that_is_missing_is_named(hf_models: Models, tmp_path: Path, suffix: str) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    file = in_parts(folder, suffix)[1]
    (folder / file).unlink()
    refuse(hf_models, folder, rf"vit lacks {file} \(save the model")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("part", ["../secret.{}", "/etc/secret.{}", "sub/secret.{}", "..", "a*.{}"])
def test_an_index_that_leads_out_of_its_folder_is_refused(
    hf_models: Models, tmp_path: Path, suffix: str, part: str
) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    in_parts(folder, suffix)
    [index] = folder.glob("*.index.json")
    table = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=table | {next(iter(table)): part.format(suffix)})
    refuse(
        hf_models,
        folder,
        rf"names '{part.format(suffix)}' as a part, which is no".replace("*", r"\*"),
    )


def test_an_index_of_one_format_cannot_name_parts_of_the_other(
    hf_models: Models, tmp_path: Path
) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    in_parts(folder, "bin")
    (folder / "pytorch_model.bin.index.json").rename(folder / "model.safetensors.index.json")
    refuse(hf_models, folder, r"as a part, which is no \.safetensors file beside it")


@pytest.mark.parametrize("table", [None, {}, [], {"a": 1}, "x"])
def test_an_index_without_parts_is_refused(hf_models: Models, tmp_path: Path, table: Any) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    in_parts(folder, "bin")
    edit_json(folder / "pytorch_model.bin.index.json", weight_map=table)
    refuse(hf_models, folder, r"index\.json names no parts")


def test_weights_of_another_net_are_refused(hf_models: Models, tmp_path: Path) -> None:
    folder = copy_of(hf_models["clip"], tmp_path / "clip")
    tensors = load_file(folder / WHOLE)
    (folder / WHOLE).unlink()
    del tensors["visual_projection.weight"]
    torch.save(tensors, folder / PICKLED)
    refuse(hf_models, folder, r"lack 1 .* the first is visual_projection\.weight")


def test_a_torch_file_without_tensors_is_refused(hf_models: Models, tmp_path: Path) -> None:
    folder = copy_of(hf_models["vit"], tmp_path / "vit")
    (folder / WHOLE).unlink()
    torch.save({"epoch": 3}, folder / PICKLED)
    refuse(hf_models, folder, r"it holds no tensors \(but 'epoch'\)")
