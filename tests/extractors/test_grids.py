"""Every backbone on the project's grid and on that of UnAV-100's published features."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.audio.mel import VGGISH_OFFSET, log_mel_patches
from extractors.grids import GRIDS, OWN_GRID, UNAV_GRID, grid_of, split_name
from extractors.hf.net import import_transformers
from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.naming import plain_names
from extractors.onepeace.backbone import OnePeaceLoader
from extractors.onepeace.spec import onepeace_spec
from extractors.registry import backbone_names, backbone_spec, check_backbone, load_backbone
from extractors.spec import Backbone
from extractors.stream import extract_features
from extractors.windows import WindowGrid, even_frames
from fixtures.hf import Models, edit_json, make_model
from fixtures.media import Zoo
from fixtures.onepeace import STREAM_SIZE, TINY, write_base, write_video
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault, UsageError

CLIP = "constant.mp4"  # 5 s: 125 frames at 25 fps
STEPS = (0, 8, 12)  # first and last, and one with the beep
PLACES = [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23]  # 16 of 24


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, Any]:
    """How many rows the public extractor gave of real clips."""
    rows: dict[str, Any] = json.loads((golden / "grids/published_rows.json").read_text("utf-8"))
    return rows


@pytest.fixture(scope="module")
def frames(zoo: Zoo) -> np.ndarray:
    """(n, H, W, 3) frames of the clip at 25 a second, in its own size."""
    info = probe(zoo[CLIP].path)
    assert info.video is not None
    size = (info.video.width, info.video.height)
    with open_video(info, fps=UNAV_GRID.fps, size=size) as reader:
        return np.concatenate([block.frames.copy() for block in reader])


@pytest.fixture(scope="module")
def sound(zoo: Zoo) -> np.ndarray:
    """(n,) sound of the clip, with a second of silence behind it."""
    with open_audio(probe(zoo[CLIP].path), sample_rate=16_000) as reader:
        heard = np.concatenate([block.copy() for block in reader])
    assert np.abs(heard[5_120 * STEPS[1] :][:15_360]).max() > 0.1
    return np.pad(heard, (0, 16_000))


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- names ----------------------------------------------------------------------------------------


def test_every_backbone_of_the_table_is_there_on_every_grid() -> None:
    plain = plain_names(backbone_names())
    assert {"lite", "onepeace", "onepeace-bf16", "i3d-vggish", "i3d-deepmind-vggish"} <= set(plain)
    assert {"i3d-vggish-linear", "unav-lite"}.isdisjoint(plain)
    own_grid = [name for name in backbone_names() if not split_name(name)[0]]
    assert set(backbone_names()) == {prefix + name for prefix in GRIDS for name in own_grid}
    for name in own_grid:
        own, unav = backbone_spec(name), backbone_spec(f"unav-{name}")
        assert (own.grid, unav.grid) == (OWN_GRID, UNAV_GRID)
        assert own.digest != unav.digest
        for modality in ("vision", "audio"):
            ours, theirs = getattr(own, modality), getattr(unav, modality)
            assert (ours.name, ours.dim, ours.files) == (theirs.name, theirs.dim, theirs.files)


def test_a_name_says_its_grid() -> None:
    assert grid_of("lite") == WindowGrid()
    assert grid_of("unav-hf:a/b+c/d") == UNAV_GRID
    assert grid_of("unav100-onepeace") == OWN_GRID  # released features: "unav-" is not their prefix
    assert split_name("unav-hf:a/b+c/d") == ("unav-", "hf:a/b+c/d")
    assert (UNAV_GRID.window_seconds, UNAV_GRID.step_seconds) == (0.96, 0.32)
    assert (UNAV_GRID.window_samples, UNAV_GRID.stride_samples) == (15_360, 5_120)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unav-unav-lite", "unknown backbone 'unav-unav-lite' .*unav-NAME"),
        ("unav-onepiece", "did you mean 'unav-onepeace'?"),
        ("unav-unav100-onepeace", "features that lie on a grid of their own"),
        ("unav-imported:mine:4x4:16-16-4", "features that lie on a grid of their own"),
        ("unav-simulated:4x4:0123456789ab", "features that lie on a grid of their own"),
        ("unav-hf:only/one", "is no pair"),
    ],
)
def test_what_cannot_be_put_on_a_grid_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_backbone(name)


# --- counts and times -----------------------------------------------------------------------------


def test_the_grid_counts_as_the_public_extractor_does(published: dict[str, Any]) -> None:
    for clip in published.values():
        for made in clip["pictures"]:
            grid = WindowGrid(
                fps=Fraction(made["fps"]),
                window=made["window"],
                stride=made["stride"],
                lookahead=UNAV_GRID.lookahead,
            )
            assert grid.whole_steps(clip["picture_seconds"]) == made["rows"]


def test_every_third_step_of_unavs_grid_is_a_published_row_of_windows_side_by_side(
    published: dict[str, Any],
) -> None:
    """24 frames every 24 at 25 fps, and VGGish every 0.96 s: same counts, same times."""
    for clip in published.values():
        steps = UNAV_GRID.steps(clip["picture_seconds"])
        for made in (made for made in clip["pictures"] if made["stride"] == 24):
            rows = np.arange(made["rows"])
            assert len(range(0, steps, 3)) == made["rows"]
            times = (24 * rows + 12) / 25
            np.testing.assert_allclose(UNAV_GRID.centres(steps)[::3], times, rtol=1e-12)
        patches = np.zeros(clip["sound_samples"], np.float32)
        count = len(log_mel_patches(patches, offset=VGGISH_OFFSET, hop_seconds=0.96))
        every = len(log_mel_patches(patches, offset=VGGISH_OFFSET, hop_seconds=0.32))
        assert count == len(range(0, every, 3)) == clip["sound"]["rows"]


def test_the_committed_counts_are_those_of_the_published_arrays(
    published: dict[str, Any], shared: Callable[[str], Path]
) -> None:
    for name, clip in published.items():
        for made in (*clip["pictures"], clip["sound"]):
            array = np.load(shared(f"data/features/{name}/{made['file']}.npy"))
            assert len(array) == made["rows"]
        info = probe(shared(f"media/{name}.mp4"))
        assert info.video is not None
        assert info.video.end == pytest.approx(clip["picture_seconds"], abs=0.06)
        with open_audio(info, sample_rate=16_000) as reader:
            assert sum(len(block) for block in reader) == clip["sound_samples"]


def test_even_frames_are_spread_over_the_window() -> None:
    places = even_frames(24, 16)
    assert places.tolist() == PLACES
    np.testing.assert_array_equal(places, 23 - places[::-1])
    np.testing.assert_array_equal(places, np.rint(np.linspace(0, 23, 16)))
    assert even_frames(16, 16).tolist() == list(range(16))
    assert even_frames(16, 1).tolist() == [8]
    with pytest.raises(ValueError, match="32 frames"):
        even_frames(24, 32)


# --- features -------------------------------------------------------------------------------------


def test_lite_on_unavs_grid_sees_24_frames_and_hears_from_the_windows_first_sample(
    zoo: Zoo, frames: np.ndarray, sound: np.ndarray
) -> None:
    backbone = load_backbone("unav-lite", device="cpu", threads=1)
    own = load_backbone("lite", device="cpu", threads=1)
    features = extract_features(zoo[CLIP].path, backbone)
    assert features.steps == (125 - 1 - 24) // 8 + 1 == 13
    assert features.digest == backbone_spec("unav-lite").digest
    assert features["vision_mask"].all()
    assert features["audio_mask"].all()
    for step in STEPS:
        first = 5_120 * step
        heard = np.pad(sound[first : first + 15_600], 200)  # whose middle the own grid's hears
        expected = own.audio.embed(heard[None])
        close(features["audio"][step], expected.embeddings[0])
        alone = backbone.audio.embed(sound[None, first : first + 15_600])
        close(alone.embeddings, expected.embeddings)
    info = probe(zoo[CLIP].path)
    assert info.video is not None
    size = own.vision.frame_size(info.video.width, info.video.height)
    with open_video(info, fps=UNAV_GRID.fps, size=size) as reader:
        scaled = np.concatenate([block.frames.copy() for block in reader])
    step = 7
    seen = own.vision.embed(scaled[8 * step : 8 * step + 24]).embeddings
    close(features["vision"][step], seen.mean(axis=0))
    assert np.abs(features["vision"] - features["vision"][0]).max() > 0.01


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_base(folder)
    write_video(folder)
    return folder


def narrow_onepeace(grid: WindowGrid, weights: Path) -> Backbone:
    spec = onepeace_spec(grid)
    vision, audio = (replace(encoder, dim=TINY.dim) for encoder in (spec.vision, spec.audio))
    loader = OnePeaceLoader(replace(spec, vision=vision, audio=audio), size=STREAM_SIZE)
    return loader(device="cpu", threads=1, weights_dir=weights)


def test_onepeace_on_unavs_grid_is_given_16_of_24_frames_and_a_repeated_window(
    zoo: Zoo, sound: np.ndarray, weights: Path
) -> None:
    own, unav = (narrow_onepeace(grid, weights) for grid in (OWN_GRID, UNAV_GRID))
    features = extract_features(zoo[CLIP].path, unav)
    info = probe(zoo[CLIP].path)
    assert features.steps == 13
    assert info.video is not None
    size = own.vision.frame_size(info.video.width, info.video.height)
    with open_video(info, fps=UNAV_GRID.fps, size=size) as reader:
        frames = np.concatenate([block.frames.copy() for block in reader])
    prepared = own.vision.prepare(frames)  # type: ignore[attr-defined]
    for step in STEPS:
        window = prepared[8 * step : 8 * step + 24]
        close(features["vision"][step], own.vision.embed(window[None, PLACES]).embeddings[0])
        heard = sound[None, 5_120 * step : 5_120 * step + 15_360]
        # The own grid's branch repeats what has less than a second, as a stream's short end.
        close(features["audio"][step], own.audio.embed(heard).embeddings[0])
    assert np.abs(features["vision"] - features["vision"][0]).max() > 1e-3
    with pytest.raises(ValueError, match=r"\(N, 24, 64, 64, 3\)"):
        unav.vision.embed(np.zeros((1, 16, 64, 64, 3), np.uint8))


def test_onepeace_cannot_have_windows_of_fewer_frames_than_it_takes() -> None:
    with pytest.raises(ValueError, match="ONE-PEACE takes 16 frames, a window has 8"):
        onepeace_spec(WindowGrid(fps=Fraction(8), window=8, stride=2))


def test_onepeace_on_unavs_grid_names_its_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"onepeace_video_k400\.pth .*not on this machine"):
        load_backbone("unav-onepeace-bf16", device="cpu", weights_dir=tmp_path)


@pytest.mark.parametrize("taken", [16, 8])
def test_a_video_model_on_unavs_grid_is_given_frames_spread_evenly(
    taken: int, zoo: Zoo, hf_models: Models, frames: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    folder = make_model("videomae", tmp_path / "videomae")
    edit_json(folder / "config.json", num_frames=taken)
    name = f"unav-hf:{folder}+{hf_models['wav2vec2']}"
    features = extract_features(zoo[CLIP].path, load_backbone(name, device="cpu", threads=1))
    assert features.steps == 13
    t: Any = import_transformers()
    model = t.VideoMAEForVideoClassification.from_pretrained(folder).videomae
    processor = t.AutoImageProcessor.from_pretrained(folder, backend="pil")
    ears = t.Wav2Vec2ForCTC.from_pretrained(hf_models["wav2vec2"]).wav2vec2
    extractor = t.AutoFeatureExtractor.from_pretrained(hf_models["wav2vec2"])
    for step in STEPS:
        window = frames[8 * step : 8 * step + 24][even_frames(24, taken)]
        heard = sound[5_120 * step : 5_120 * step + 15_360]
        with torch.inference_mode():
            seen = model(**processor(list(window), return_tensors="pt")).last_hidden_state.mean(1)
            given = extractor(heard, sampling_rate=16_000, return_tensors="pt")
            told = ears(**given).last_hidden_state.mean(1)
        close(features["vision"][step], seen[0].numpy())
        close(features["audio"][step], told[0].numpy())


def test_an_image_model_on_unavs_grid_is_averaged_over_24_frames(
    zoo: Zoo, hf_models: Models, frames: np.ndarray, sound: np.ndarray
) -> None:
    plain = hf_models.pair("clip", "clap")
    own, unav = (load_backbone(p + plain, device="cpu", threads=1) for p in GRIDS)
    features = extract_features(zoo[CLIP].path, unav)
    assert (own.spec.vision, own.spec.audio) == (unav.spec.vision, unav.spec.audio)
    assert own.spec.digest != unav.spec.digest
    prepared = own.vision.prepare(frames)  # type: ignore[attr-defined]
    for step in STEPS:
        seen = own.vision.embed(prepared[8 * step : 8 * step + 24]).embeddings
        close(features["vision"][step], seen.mean(axis=0))
        heard = sound[None, 5_120 * step : 5_120 * step + 15_360]
        close(features["audio"][step], own.audio.embed(heard).embeddings[0])


def test_a_video_model_of_more_frames_than_a_window_is_told_of_the_grid_that_has_them(
    hf_models: Models, tmp_path: Path
) -> None:
    folder = make_model("videomae", tmp_path / "videomae")
    pair = f"hf:{folder}+{hf_models['ast']}"
    edit_json(folder / "config.json", num_frames=24)
    with pytest.raises(UsageError, match=r"sees 24 frames at once, a window has 16 .*unav-hf:"):
        backbone_spec(pair)
    assert "evenly" not in backbone_spec(f"unav-{pair}").vision.preprocessing
    edit_json(folder / "config.json", num_frames=32)
    with pytest.raises(UsageError, match=r"a window has 24 \(take a video model of at most 24"):
        backbone_spec(f"unav-{pair}")


# --- the command ----------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    """Exit code of the command line."""
    with contextlib.suppress(SystemExit):
        return int(main(list(arguments)) or 0)
    raise AssertionError("the command line gave up before it began")


def test_the_command_extracts_on_unavs_grid_and_its_store_takes_no_other(
    zoo: Zoo, hf_models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = hf_models.pair("vit", "ast")
    words = ["extract", str(zoo[CLIP].path), "--out", str(tmp_path / "store"), "--device", "cpu"]
    assert run(*words, "--backbone", f"unav-{pair}") == 0
    described = json.loads((tmp_path / "store" / "store.json").read_text("utf-8"))
    assert described["backbone"]["name"] == f"unav-{pair}"
    assert described["backbone"]["grid"] == UNAV_GRID.to_json()
    capsys.readouterr()
    assert run(*words, "--backbone", pair) == 2
    assert "digest" in capsys.readouterr().err
    assert run(*words, "--backbone", "unav-lite-") == 2
    assert "did you mean 'unav-lite'?" in capsys.readouterr().err
