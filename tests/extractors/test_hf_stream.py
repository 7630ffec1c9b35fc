"""The whole way with models of transformers: raw file, windows, store, and back."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.audio.torchaudio_shim import import_torchaudio
from extractors.features import Features
from extractors.hf.net import import_transformers
from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.registry import backbone_spec, load_backbone
from extractors.storage.store import FeatureStore
from extractors.stream import extract_features
from fixtures.hf import Models, make_model
from fixtures.media import Zoo
from pipeline.cli import main
from pipeline.core.errors import StoreError
from workflows.extraction.run import extract


def stored(path: Path, name: str, out: Path) -> Features:
    report = extract([str(path)], out=out, backbone=name, device="cpu")
    assert [row.outcome for row in report.rows] == ["done"]
    store = FeatureStore.open(out, digest=backbone_spec(name).digest)
    (id,) = store.ids()
    return store.read(id)


def frames_of(path: Path) -> np.ndarray:
    info = probe(path)
    assert info.video is not None
    size = (info.video.width, info.video.height)
    with open_video(info, fps=backbone_spec("lite").grid.fps, size=size) as reader:
        return np.concatenate([block.frames.copy() for block in reader])


def sound_of(path: Path) -> np.ndarray:
    with open_audio(probe(path), sample_rate=16_000) as reader:
        return np.concatenate([block.copy() for block in reader])


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_clip_and_clap_from_a_raw_file_into_a_store(
    zoo: Zoo, hf_models: Models, tmp_path: Path
) -> None:
    path = zoo["constant.mp4"].path
    features = stored(path, hf_models.pair("clip", "clap"), tmp_path / "store")
    assert features.steps == 17
    assert features["vision_mask"].all()
    assert features["audio_mask"].all()
    assert "vision_scores" not in features.arrays

    t: Any = import_transformers()
    import_torchaudio()
    from torchaudio.functional import resample

    clip = t.CLIPModel.from_pretrained(hf_models["clip"])
    processor = t.AutoImageProcessor.from_pretrained(hf_models["clip"], backend="pil")
    clap = t.ClapModel.from_pretrained(hf_models["clap"])
    extractor = t.AutoFeatureExtractor.from_pretrained(hf_models["clap"])
    frames, sound = frames_of(path), sound_of(path)
    for step in (0, 7, 16):
        window = frames[4 * step : 4 * step + 16]
        heard = sound[4_000 * step : 4_000 * step + 16_000]
        heard = np.pad(heard, (0, 16_000 - len(heard)))
        upsampled = resample(
            torch.from_numpy(heard).double(),
            16_000,
            48_000,
            lowpass_filter_width=64,
            rolloff=0.9475937167399596,
            resampling_method="sinc_interp_kaiser",
            beta=14.769656459379492,
        )
        with torch.inference_mode():
            seen = clip.get_image_features(**processor(list(window), return_tensors="pt"))
            given = extractor(upsampled.numpy(), sampling_rate=48_000, return_tensors="pt")
            told = clap.get_audio_features(input_features=given["input_features"].float())
        close(features["vision"][step], seen.pooler_output.mean(0).numpy())
        close(features["audio"][step], told.pooler_output[0].numpy())
    assert np.abs(features["vision"] - features["vision"][0]).max() > 0.01
    norms = np.linalg.norm(features["audio"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_videomae_and_wav2vec2_see_and_hear_whole_windows(
    zoo: Zoo, hf_models: Models, tmp_path: Path
) -> None:
    path = zoo["constant.mp4"].path
    features = stored(path, hf_models.pair("videomae", "wav2vec2"), tmp_path / "store")
    t: Any = import_transformers()
    folder = hf_models["videomae"]
    model = t.VideoMAEForVideoClassification.from_pretrained(folder).videomae
    processor = t.AutoImageProcessor.from_pretrained(folder, backend="pil")
    ears = t.Wav2Vec2ForCTC.from_pretrained(hf_models["wav2vec2"]).wav2vec2
    extractor = t.AutoFeatureExtractor.from_pretrained(hf_models["wav2vec2"])
    frames, sound = frames_of(path), sound_of(path)
    for step in (0, 5, 16):
        window = list(frames[4 * step : 4 * step + 16])
        heard = sound[4_000 * step : 4_000 * step + 16_000]
        heard = np.pad(heard, (0, 16_000 - len(heard)))
        with torch.inference_mode():
            seen = model(**processor(window, return_tensors="pt")).last_hidden_state.mean(1)
            given = extractor(heard, sampling_rate=16_000, return_tensors="pt")
            told = ears(**given).last_hidden_state.mean(1)
        close(features["vision"][step], seen[0].numpy())
        close(features["audio"][step], told[0].numpy())


@pytest.mark.parametrize(
    ("file", "vision", "audio"), [("no_audio.mp4", True, False), ("audio_only.wav", False, True)]
)
def test_a_missing_modality_is_zeros_behind_a_mask(
    zoo: Zoo, hf_models: Models, tmp_path: Path, file: str, vision: bool, audio: bool
) -> None:
    features = stored(zoo[file].path, hf_models.pair("siglip", "ast"), tmp_path / "store")
    for name, there in (("vision", vision), ("audio", audio)):
        assert features[f"{name}_mask"].all() == there
        assert features[f"{name}_mask"].any() == there
        assert features[name].any() == there
    assert any("no " in note for note in features.summary.notes)


def test_the_batch_size_changes_no_feature(zoo: Zoo, hf_models: Models) -> None:
    path = zoo["odd_size.mp4"].path
    for pair in (("clip", "clap"), ("videomae", "ast")):
        backbone = load_backbone(hf_models.pair(*pair), device="cpu", threads=2)
        one, many = (extract_features(path, backbone, batch_size=size) for size in (1, 64))
        for name in ("vision", "audio"):
            close(many[name], one[name])


def test_a_tenth_of_a_second_of_sound_is_repeated_by_clap(zoo: Zoo, hf_models: Models) -> None:
    backbone = load_backbone(hf_models.pair("clip", "clap"), device="cpu", threads=1)
    path = zoo["tenth.mp4"].path
    features = extract_features(path, backbone)
    assert features.steps == 1
    assert features["audio_mask"].all()
    close(features["audio"], backbone.audio.embed(sound_of(path)[None]).embeddings)


def test_a_store_refuses_the_features_of_other_weights(
    zoo: Zoo, hf_models: Models, tmp_path: Path
) -> None:
    path = zoo["no_audio.mp4"].path
    folder = tmp_path / "clip"
    shutil.copytree(hf_models["clip"], folder)
    name = f"hf:{folder}+{hf_models['ast']}"
    stored(path, name, tmp_path / "store")
    make_model("clip", folder, seed=1)
    with pytest.raises(StoreError, match="digest"):
        extract([str(path)], out=tmp_path / "store", backbone=name, device="cpu")


def test_the_command_line_takes_the_name_plans_with_it_and_extracts(
    zoo: Zoo,
    hf_models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(hf_models["clip"], weights / "openai" / "clip-tiny")
    monkeypatch.chdir(hf_models["ast"].parent)
    arguments = [str(zoo["no_audio.mp4"].path), "--out", str(tmp_path / "store")]
    arguments += ["--backbone", "hf:openai/clip-tiny+./ast", "--weights-dir", str(weights)]
    arguments += ["--offline", "--device", "cpu"]
    assert run("extract", *arguments, "--dry-run") == 0
    assert not (tmp_path / "store").exists()
    capsys.readouterr()
    assert run("extract", *arguments) == 0
    described = json.loads((tmp_path / "store" / "store.json").read_text())
    assert described["backbone"]["name"] == f"hf:openai/clip-tiny+{hf_models['ast']}"
    assert run("extract", *arguments[:-3], "--backbone", "hf:openai/clip-tiny") == 2
    assert "is no pair" in capsys.readouterr().err
    assert run("extract", *arguments[:3], "--backbone", "hf:a/b+c/d", "--offline") == 3
    assert "the model a/b is not on this machine" in capsys.readouterr().err


def run(*arguments: str) -> int:
    """Exit code of the command line."""
    with contextlib.suppress(SystemExit):
        return int(main(list(arguments)) or 0)
    raise AssertionError("the command line gave up before it began")
