"""I3D and VGGish on the project's grid and on UnAV-100's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.audio.mel import VGGISH_OFFSET, log_mel_patches
from extractors.features import concatenate_rows
from extractors.grids import UNAV_GRID
from extractors.i3d_vggish import I3D_VGGISH_LOADERS, I3DVggishLoader
from extractors.i3d_vggish_spec import I3D_FLOW_WEIGHTS, I3D_RGB_FLOW, RAFT_WEIGHTS
from extractors.media.audio import open_audio
from extractors.media.info import AudioStream, MediaInfo
from extractors.media.probe import probe
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import Backbone, BackboneSpec, Encoded, EncoderSpec
from extractors.stream import FeatureStream, extract_features
from extractors.vision.i3d_keys import canonical_shapes
from extractors.windows import WindowGrid
from fixtures.golden_weights import read_keys, tensor
from fixtures.media import Zoo
from fixtures.tf_bundle import write_i3d_bundle
from pipeline.core.errors import EnvironmentFault
from workflows.bench.noise import noise_sources

ANET = "ANet_v_GGSY1Qvo990"


class Blank:
    """Answers zeros of a description's width."""

    class_names: tuple[str, ...] = ()

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return 32, 24

    def embed(self, samples: NDArray[Any]) -> Encoded:
        return Encoded(np.zeros((len(samples), self.spec.dim), np.float32), None)


def blank(grid: WindowGrid) -> Backbone:
    row = I3D_VGGISH_LOADERS["unav-i3d-vggish"].spec
    spec = BackboneSpec("blank", grid, row.vision, row.audio)
    return Backbone(spec, Blank(row.vision), Blank(row.audio))


# --- the grids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rgb", ["", "rgb-"])
def test_both_grids_are_in_the_table(rgb: str) -> None:
    own, unav = backbone_spec(f"i3d-{rgb}vggish"), backbone_spec(f"unav-i3d-{rgb}vggish")
    assert (own.grid, unav.grid) == (WindowGrid(), UNAV_GRID)
    assert (unav.grid.window_seconds, unav.grid.step_seconds) == (0.96, 0.32)
    assert own.vision == unav.vision
    assert own.vision.dim == (1024 if rgb else 2048)
    for spec in (own, unav):  # VGGish hears 15,600 samples wherever the window ends
        assert spec.grid.window_samples + spec.audio.overhang >= 15_600
    assert unav.grid.stride_samples == 0.32 * 16_000


@pytest.mark.parametrize(
    ("frames", "steps"),
    [(1500, 185), (1050, 129), (250, 29), (33, 2), (32, 1), (25, 1), (24, 1), (1, 1)],
)
def test_unavs_grid_has_as_many_steps_as_its_features(frames: int, steps: int) -> None:
    """floor((N - 1 - 24) / 8) + 1 of N frames; its longest videos, of 60 s, have 185.

    The extractor wants a frame behind the last window. Below 25 frames it gives nothing, here a
    video always has one step.
    """
    assert UNAV_GRID.steps(frames / 25) == steps
    assert UNAV_GRID.whole_steps(frames / 25) == max(0, (frames - 1 - 24) // 8 + 1)


def test_rows_handed_on_early_count_the_frame_behind_their_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sound that goes on past a promise of 32 frames makes no second step certain."""
    monkeypatch.setattr("extractors.stream.CHUNK_STEPS", 1)
    sound = AudioStream(0, 0.0, 1.28, 16_000, 1, "pcm_f32le")
    info = MediaInfo(Path("made up"), "none", 0, 1.28, 0.0, None, sound)
    longer = noise_sources(replace(info, duration=2.0))
    stream = FeatureStream(info, blank(UNAV_GRID), sources=longer)
    rows = concatenate_rows(stream)
    assert stream.summary.steps == len(rows["audio"]) == 1


def test_unavs_grid_has_the_times_of_its_features() -> None:
    """Feature i covers frames 8 i .. 8 i + 23 at 25 a second; t seconds lie at (25 t - 12) / 8."""
    assert UNAV_GRID.span(5) == (40 / 25, 64 / 25)
    seconds = np.array([0.48, 1.0, 7.77])
    np.testing.assert_allclose(UNAV_GRID.to_grid(seconds), (25 * seconds - 12) / 8)


@pytest.mark.parametrize(
    ("fps", "stride", "file"),
    [
        (25, 24, "i3d_rgb_24_24_25"),
        (15, 12, "i3d_rgb_24_12_15"),
        (25, 24, "i3d_flow_raft_24_24_25"),
    ],
)
def test_a_real_clip_has_as_many_steps_as_the_published_extractor_gave(
    shared: Callable[[str], Path], fps: int, stride: int, file: str
) -> None:
    published = np.load(shared(f"data/features/{ANET}/{file}.npy"))
    grid = WindowGrid(fps=Fraction(fps), window=24, stride=stride, lookahead=1)
    features = extract_features(shared(f"media/{ANET}.mp4"), blank(grid))
    assert features.summary.status == "done"
    assert features.steps == len(published)
    assert features["vision_mask"].all()
    assert features["vision"].shape[1] == 2 * published.shape[1]


def test_an_older_copy_of_the_extractor_counts_a_last_window_that_is_cut_short(
    shared: Callable[[str], Path],
) -> None:
    """BMT's sample has 14 rows for 35.08 s, 64 frames every 64: one more than there are whole."""
    published = np.load(shared("data/features/BMT_women_long_jump/women_long_jump_rgb.npy"))
    video = probe(shared("media/BMT_women_long_jump.mp4")).video
    grid = WindowGrid(fps=Fraction(25), window=64, stride=64, lookahead=1)
    assert video is not None and video.end is not None
    assert grid.frame_count(video.end) == 876
    assert grid.steps(video.end) == len(published) - 1 == -(-876 // 64) - 1


@pytest.mark.parametrize(
    ("clip", "file"),
    [
        (ANET, f"{ANET}/vggish"),
        ("BMT_women_long_jump", "BMT_women_long_jump/women_long_jump_vggish"),
    ],
)
def test_a_real_sound_has_as_many_patches_as_the_published_extractor_gave(
    shared: Callable[[str], Path], clip: str, file: str
) -> None:
    published = np.load(shared(f"data/features/{file}.npy"))
    with open_audio(probe(shared(f"media/{clip}.mp4")), sample_rate=16_000) as reader:
        sound = np.concatenate([block.copy() for block in reader])
    assert len(log_mel_patches(sound, offset=VGGISH_OFFSET)) == len(published)


def test_the_flow_of_the_table_is_the_flow_of_raft() -> None:
    assert I3D_RGB_FLOW.more_weights == (I3D_FLOW_WEIGHTS, RAFT_WEIGHTS)


# --- weights to features --------------------------------------------------------------------------


def test_missing_weights_are_named_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"i3d_rgb\.pt .*not on this machine.*--weights-dir"):
        load_backbone("unav-i3d-vggish", device="cpu", weights_dir=tmp_path)


@pytest.fixture(scope="module")
def folder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints with the public names, random values, and another hash."""
    folder = tmp_path_factory.mktemp("weights")
    vggish = read_keys(golden / "backbones/vggish_keys.txt")
    for file, shapes in (("i3d_rgb.pt", canonical_shapes(3)), ("vggish-10086976.pth", vggish)):
        state = {name: torch.from_numpy(tensor(name, shape)) for name, shape in shapes.items()}
        torch.save(state, folder / file)
    write_i3d_bundle(folder, "kinetics-i3d-rgb.ckpt", channels=3)
    return folder


def unhashed(name: str) -> I3DVggishLoader:
    """The row of the table, for checkpoints made here."""
    spec = I3D_VGGISH_LOADERS[name].spec
    vision = replace(spec.vision, weights=replace(spec.vision.weights, git_blob=""))
    audio = replace(spec.audio, weights=replace(spec.audio.weights, sha256=""))
    return I3DVggishLoader(replace(spec, vision=vision, audio=audio))


@pytest.mark.parametrize("name", ["unav-i3d-rgb-vggish", "i3d-deepmind-rgb-vggish"])
def test_a_raw_file_becomes_features_of_both_nets(name: str, folder: Path, zoo: Zoo) -> None:
    backbone = unhashed(name)(device="cpu", threads=1, weights_dir=folder)
    features = extract_features(zoo["tenth.mp4"].path, backbone)
    assert features["vision"].shape == (1, 1024)
    assert features["audio"].shape == (1, 128)
    for modality in ("vision", "audio"):
        assert np.isfinite(features[modality]).all()
        assert features[modality].min() >= 0  # both nets end in a ReLU
        assert features[modality].max() > 0
    assert "vision_scores" not in features.arrays
