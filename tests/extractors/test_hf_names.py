"""Names of transformers backbones, where their models are looked for, and their digests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extractors.catalogue import verify_backbone
from extractors.hf.families import FAMILIES
from extractors.hf.model import find_hf_model, hf_spec, is_hf, parse_hf_name
from extractors.hf.net import import_transformers
from extractors.registry import (
    backbone_spec,
    check_backbone,
    expected_digest,
    load_backbone,
    refuse_without_encoder,
)
from extractors.spec import BackboneSpec
from fixtures.hf import MAKERS, PICTURES, Models, edit_json, make_model
from pipeline.core.errors import EnvironmentFault, UsageError

HUB = "hf:openai/clip-vit-base-patch32+laion/clap-htsat-unfused"


def copy_of(source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_two_ids_of_the_hub_are_a_name() -> None:
    names = parse_hf_name(f"{HUB}@refs/pr/3")
    assert is_hf(HUB)
    assert (names["vision"].repo, names["vision"].revision) == (
        "openai/clip-vit-base-patch32",
        None,
    )
    assert (names["audio"].repo, names["audio"].revision) == (
        "laion/clap-htsat-unfused",
        "refs/pr/3",
    )


def test_folders_are_names_and_mean_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = parse_hf_name("hf:./models/clip@2+../clap")
    assert names["vision"].folder == tmp_path / "models" / "clip@2"
    assert names["audio"].folder is not None
    assert names["audio"].folder.is_absolute()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_hf_name("hf:~/clip+a/b")["vision"].folder == tmp_path / "clip"


def test_a_plus_in_a_folders_name_is_read_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "clip+large").mkdir()
    (tmp_path / "clap").mkdir()
    names = parse_hf_name(f"hf:{tmp_path}/clip+large+{tmp_path}/clap")
    assert names["vision"].folder == tmp_path / "clip+large"
    assert names["audio"].folder == tmp_path / "clap"


def test_a_plus_that_could_mean_two_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can be read in several ways"):
        parse_hf_name(f"hf:{tmp_path}/one+/two+{tmp_path}/three")  # none of them is there


@pytest.mark.parametrize(
    "name", ["hf:", "hf:openai/clip", "hf:openai/clip+", "hf:+laion/clap", "hf:a b+c", "hf:a/b/c+d"]
)
def test_what_is_no_pair_is_answered_with_the_form(name: str) -> None:
    with pytest.raises(UsageError, match=r"is no pair \(the form is hf:<vision>\+<audio>"):
        backbone_spec(name)


def test_the_description_holds_what_decides_the_features(hf_models: Models) -> None:
    spec = backbone_spec(hf_models.pair("clip", "clap"))
    assert spec.name == hf_models.pair("clip", "clap")
    assert (spec.vision.dim, spec.audio.dim) == (20, 20)
    assert (spec.vision.unit, spec.audio.unit) == ("frame", "window")
    assert (spec.grid.fps, spec.grid.window, spec.grid.stride) == (16, 16, 4)
    weights = spec.vision.weights
    assert weights.file == "model.safetensors"
    assert weights.bytes == (hf_models["clip"] / weights.file).stat().st_size
    assert len(weights.sha256) == 64
    assert BackboneSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert backbone_spec(hf_models.pair("videomae", "ast")).vision.unit == "window"


def test_a_description_loads_neither_torch_nor_transformers(hf_models: Models) -> None:
    code = (
        "import sys\nfrom extractors.registry import backbone_spec\n"
        f"backbone_spec({hf_models.pair('siglip', 'wav2vec2')!r})\n"
        "print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_moved_copy_has_the_same_digest(hf_models: Models, tmp_path: Path) -> None:
    there = backbone_spec(hf_models.pair("clip", "ast"))
    copy = copy_of(hf_models["clip"], tmp_path / "elsewhere")
    moved = backbone_spec(f"hf:{copy}+{hf_models['ast']}")
    assert moved.name != there.name
    assert moved.digest == there.digest


def test_other_weights_of_the_same_name_have_another_digest(
    hf_models: Models, tmp_path: Path
) -> None:
    copy = copy_of(hf_models["clip"], tmp_path / "clip")
    name = f"hf:{copy}+{hf_models['ast']}"
    before = backbone_spec(name).digest
    make_model("clip", copy, seed=1)
    assert backbone_spec(name).digest != before


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
        ("preprocessor_config.json", {"resample": 2}),
        ("config.json", {"hidden_act": "relu"}),
    ],
)
def test_other_settings_have_another_digest(
    hf_models: Models, tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    copy = copy_of(hf_models["clip"], tmp_path / "clip")
    name = f"hf:{copy}+{hf_models['ast']}"
    before = backbone_spec(name).digest
    edit_json(copy / file, **change)
    assert backbone_spec(name).digest != before
    edit_json(copy / file, **dict.fromkeys(change), transformers_version="4.0.0")


def test_who_wrote_the_settings_is_no_part_of_the_digest(hf_models: Models, tmp_path: Path) -> None:
    copy = copy_of(hf_models["clip"], tmp_path / "clip")
    name = f"hf:{copy}+{hf_models['ast']}"
    before = backbone_spec(name).digest
    edit_json(copy / "config.json", transformers_version="4.0.0", _name_or_path="/home/me/clip")
    assert backbone_spec(name).digest == before


def test_the_settings_may_lie_in_the_file_of_the_whole_processor(
    hf_models: Models, tmp_path: Path
) -> None:
    copy = copy_of(hf_models["clap"], tmp_path / "clap")
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    whole = {"processor_class": "ClapProcessor", "feature_extractor": settings}
    (copy / "processor_config.json").write_text(json.dumps(whole))
    nested = find_hf_model(f"hf:a/b+{copy}", "audio")
    plain = find_hf_model(f"hf:a/b+{hf_models['clap']}", "audio")
    assert nested.sample_rate == 48_000
    assert nested.spec.preprocessing == plain.spec.preprocessing


def test_weights_in_parts_are_one_model(hf_models: Models, tmp_path: Path) -> None:
    t: Any = import_transformers()
    copy = copy_of(hf_models["vit"], tmp_path / "vit")
    (copy / "model.safetensors").unlink()
    whole = t.ViTForImageClassification.from_pretrained(hf_models["vit"])
    whole.save_pretrained(copy, max_shard_size="40KB")
    name = f"hf:{copy}+{hf_models['ast']}"
    spec = backbone_spec(name)
    assert spec.vision.more_weights
    assert {weights.file for weights in spec.vision.files} == {
        path.name for path in copy.glob("*.safetensors")
    }
    assert load_backbone(name, device="cpu", threads=1).spec == spec


@pytest.mark.parametrize(
    ("vision", "audio", "said"),
    [
        ("ast", "ast", "cannot encode vision: .* is an encoder of audio .*clip, siglip"),
        ("clip", "clip", "cannot encode audio: .* is an encoder of vision .*clap"),
    ],
)
def test_a_model_of_the_other_modality_is_refused(
    hf_models: Models, vision: str, audio: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        backbone_spec(hf_models.pair(vision, audio))


def test_an_unknown_architecture_is_refused_with_the_known_ones(
    hf_models: Models, tmp_path: Path
) -> None:
    copy = copy_of(hf_models["clip"], tmp_path / "clip")
    edit_json(copy / "config.json", model_type="mllama")
    with pytest.raises(UsageError, match=r"'mllama' is unknown here .*clip, siglip"):
        backbone_spec(f"hf:{copy}+{hf_models['ast']}")


@pytest.mark.parametrize("frames", [32, 0])
def test_a_video_model_of_longer_clips_is_refused(
    frames: int, hf_models: Models, tmp_path: Path
) -> None:
    copy = copy_of(hf_models["videomae"], tmp_path / "videomae")
    edit_json(copy / "config.json", num_frames=frames)
    with pytest.raises(UsageError, match=f"sees {frames} frames at once, a window has 16"):
        backbone_spec(f"hf:{copy}+{hf_models['ast']}")


def test_a_video_model_of_shorter_clips_says_how_it_is_given_them(
    hf_models: Models, tmp_path: Path
) -> None:
    copy = copy_of(hf_models["videomae"], tmp_path / "videomae")
    whole = backbone_spec(f"hf:{copy}+{hf_models['ast']}")
    assert "evenly" not in whole.vision.preprocessing
    edit_json(copy / "config.json", num_frames=8)
    spec = backbone_spec(f"hf:{copy}+{hf_models['ast']}")
    assert "8 frames spread evenly over the 16 of a window" in spec.vision.preprocessing


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("config.json", "holds no model: there is no config.json"),
        ("model.safetensors", r"lacks its weights, model.safetensors or pytorch_model.bin \(save"),
        ("preprocessor_config.json", "lacks the settings of its preprocessing"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(
    hf_models: Models, tmp_path: Path, lost: str, said: str
) -> None:
    copy = copy_of(hf_models["vit"], tmp_path / "vit")
    (copy / lost).unlink()
    with pytest.raises(EnvironmentFault, match=said):
        backbone_spec(f"hf:{copy}+{hf_models['ast']}")


def test_settings_that_are_no_json_are_refused(hf_models: Models, tmp_path: Path) -> None:
    copy = copy_of(hf_models["vit"], tmp_path / "vit")
    (copy / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(EnvironmentFault, match=r"config\.json cannot be read"):
        backbone_spec(f"hf:{copy}+{hf_models['ast']}")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"there is no folder .*nowhere"):
        backbone_spec(f"hf:{tmp_path}/nowhere+a/b")


@pytest.mark.parametrize("layout", ["{org}/{name}", "{org}--{name}"])
def test_the_users_folder_of_weights_is_looked_into_first(
    hf_models: Models, tmp_path: Path, layout: str
) -> None:
    copy_of(hf_models["clip"], tmp_path / layout.format(org="openai", name="clip-tiny"))
    copy_of(hf_models["clap"], tmp_path / layout.format(org="laion", name="clap-tiny"))
    name = "hf:openai/clip-tiny+laion/clap-tiny"
    spec = backbone_spec(name, weights_dir=tmp_path)
    assert spec.name == name
    assert spec.digest == backbone_spec(hf_models.pair("clip", "clap")).digest
    loaded = load_backbone(name, device="cpu", threads=1, weights_dir=tmp_path)
    assert loaded.spec == spec


def test_files_can_be_verified_without_loading_them(hf_models: Models) -> None:
    lines = verify_backbone(hf_models.pair("clip", "ast"))
    assert [line.split(",")[0] for line in lines] == ["model.safetensors"] * 2
    assert str(hf_models["clip"]) in lines[0]


def test_a_name_is_checked_without_looking_for_its_models() -> None:
    refuse_without_encoder("hf:no-such/clip+no-such/clap")
    check_backbone("hf:no-such/clip+no-such/clap")
    with pytest.raises(UsageError, match="unknown backbone"):
        check_backbone("zebra")
    with pytest.raises(UsageError, match="is no pair"):
        refuse_without_encoder("hf:no-such/clip")


def test_features_are_recognised_without_the_models_that_made_them(
    hf_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by = replace(backbone_spec(hf_models.pair("clip", "ast")), name="hf:a/b+c/d")
    assert expected_digest("hf:a/b+c/d", made_by) == made_by.digest  # neither is on this machine
    with pytest.raises(EnvironmentFault, match="the model a/b is not on this machine"):
        expected_digest("hf:a/b+e/f", made_by)
    here = hf_models.pair("clip", "ast")
    assert expected_digest(here, made_by) == made_by.digest  # the same models under another name
    assert expected_digest("lite", made_by) == backbone_spec("lite").digest
    monkeypatch.chdir(hf_models["clip"].parent)
    there = replace(made_by, name=here)
    assert expected_digest("hf:./clip+./ast", there) == made_by.digest


def test_a_missing_package_is_answered_with_the_command(
    hf_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    name = hf_models.pair("clip", "clap")
    with pytest.raises(
        EnvironmentFault, match=r"transformers .*pip install 'davel-pipeline\[hf\]'"
    ):
        load_backbone(name, device="cpu")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EnvironmentFault, match=r"huggingface_hub .*davel-pipeline\[hf\]"):
        backbone_spec(HUB)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "clap-fused"])
def test_widths_that_a_configuration_leaves_out_are_those_of_the_library(name: str) -> None:
    t: Any = import_transformers()
    model_type = {"ast": "audio-spectrogram-transformer"}.get(name, name)
    family = FAMILIES[model_type]
    config = t.AutoConfig.for_model(model_type)
    part, key, _ = family.width
    assert family.dim({}) == getattr(getattr(config, part) if part else config, key)
    assert (family.modality == "vision") == (name in PICTURES)
    assert family.clip_frames({}) == getattr(config, "num_frames", 0)
    if family.text is not None:
        assert family.text.positions == config.text_config.max_position_embeddings


def test_every_architecture_is_tried_by_these_tests(hf_models: Models) -> None:
    tried = {
        json.loads((hf_models[name] / "config.json").read_text())["model_type"] for name in MAKERS
    }
    assert tried == set(FAMILIES)


def test_hf_spec_is_what_the_table_answers(hf_models: Models) -> None:
    name = hf_models.pair("clip", "ast")
    assert hf_spec(name) == backbone_spec(name)
