"""VGGish equals the public implementations: front end, net, post-processing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.audio.mel import VGGISH_OFFSET, log_mel, log_mel_patches
from extractors.audio.vggish import VGGishEncoder, VGGishNet, load_vggish, load_vggish_net
from extractors.audio.vggish_pca import VggishPca, load_vggish_pca
from extractors.features import concatenate_rows
from extractors.grids import OWN_GRID, UNAV_GRID
from extractors.i3d_vggish_spec import (
    VGGISH_PCA_WEIGHTS,
    VGGISH_VARIANTS,
    VGGISH_WEIGHTS,
    PostProcessing,
    VGGishVariant,
    vggish_spec,
)
from extractors.media.info import AudioStream, MediaInfo
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import AudioEncoder, Backbone, BackboneSpec, StretchEncoder
from extractors.stream import FeatureStream
from extractors.windows import WindowGrid
from fixtures.backbones import MeanColour
from fixtures.golden_inputs import waveforms
from fixtures.golden_weights import read_keys, tensor
from pipeline.core.errors import EnvironmentFault
from workflows.bench.noise import noise_sources

CPU = torch.device("cpu")
ANY_FILE = replace(VGGISH_WEIGHTS, sha256="")


class SumNet(VGGishNet):
    """The sum of each patch's first and last frame, instead of 72 million weights."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, patches: Tensor) -> Tensor:
        return torch.cat([patches[:, 0, 0], patches[:, 0, -1]], dim=1)


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "backbones/vggish_golden.npz"))


@pytest.fixture(scope="module")
def state(golden: Path) -> dict[str, Tensor]:
    """The public checkpoint's names and shapes, its values made by recipe."""
    keys = read_keys(golden / "backbones/vggish_keys.txt")
    return {name: torch.from_numpy(tensor(name, shape)) for name, shape in keys.items()}


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vggish")
    torch.save(state, folder / ANY_FILE.file)
    return folder


@pytest.fixture(scope="module")
def net(checkpoint: Path) -> VGGishNet:
    return load_vggish_net(ANY_FILE, weights_dir=checkpoint)


def tiny(grid: WindowGrid) -> VGGishEncoder:
    return VGGishEncoder(SumNet(), vggish_spec(grid), grid=grid, device=CPU, threads=1)


# --- front end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(waveforms()))
def test_the_whole_log_mel_equals_the_reference(name: str, shared: Callable[[str], Path]) -> None:
    expected = np.load(shared("golden/backbones/vggish_golden.npz"))[f"{name}/log_mel"]
    ours = log_mel(waveforms()[name], offset=VGGISH_OFFSET)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", sorted(waveforms()))
@pytest.mark.parametrize(("hop", "key"), [(0.96, "hop096"), (0.32, "hop032")])
def test_as_many_patches_as_the_reference(
    reference: dict[str, np.ndarray], name: str, hop: float, key: str
) -> None:
    patches = log_mel_patches(waveforms()[name], offset=VGGISH_OFFSET, hop_seconds=hop)
    assert len(patches) == int(reference[f"{name}/n_examples_{key}"])
    whole = log_mel(waveforms()[name], offset=VGGISH_OFFSET)
    begin = round(100 * hop)
    np.testing.assert_array_equal(patches[1], whole[begin : begin + 96])


@pytest.mark.parametrize(
    ("samples", "hop", "count"),
    [
        *((0, 0.96, 0), (399, 0.96, 0), (15_599, 0.32, 0), (15_600, 0.32, 1), (20_719, 0.32, 1)),
        *((20_720, 0.32, 2), (30_959, 0.96, 1), (30_960, 0.96, 2)),
    ],
)
def test_a_patch_needs_all_its_samples(samples: int, hop: float, count: int) -> None:
    patches = log_mel_patches(np.zeros(samples), offset=VGGISH_OFFSET, hop_seconds=hop)
    assert patches.shape == (count, 96, 64)


def test_a_hop_below_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hop_seconds=0\.004 is shorter"):
        log_mel_patches(np.zeros(16_000), offset=VGGISH_OFFSET, hop_seconds=0.004)


# --- net ------------------------------------------------------------------------------------------


def test_embeddings_equal_the_reference_with_and_without_the_last_relu(
    net: VGGishNet, reference: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = torch.from_numpy(reference["net/input"])
    with torch.inference_mode():
        flat = net.flat(patches)
        embeddings = net(patches).numpy()
        monkeypatch.setattr(net, "final_relu", False)
        before = net(patches).numpy()
    first = reference["net/flat_first16"]  # tells the order of height, width and channels
    np.testing.assert_allclose(flat[:, :16], first, rtol=0, atol=1e-5 * np.abs(first).max())
    mean_std = [float(flat.mean()), float(flat.std())]
    np.testing.assert_allclose(mean_std, reference["net/flat_mean_std"], rtol=1e-5)
    for ours, key in ((embeddings, "embedding_relu"), (before, "embedding_pre")):
        theirs = reference[f"net/{key}"]
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    assert before.min() < 0 <= embeddings.min()


def test_the_encoder_answers_what_the_net_does(
    net: VGGishNet, reference: dict[str, np.ndarray]
) -> None:
    encoder: AudioEncoder = VGGishEncoder(
        net, vggish_spec(OWN_GRID), grid=OWN_GRID, device=CPU, threads=1
    )
    assert isinstance(encoder, VGGishEncoder) and isinstance(encoder, StretchEncoder)
    theirs = reference["net/embedding_relu"]
    ours = encoder.embed_patches(reference["net/input"][:, 0]).embeddings
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_a_checkpoint_may_hold_the_post_processing_too(
    state: dict[str, Tensor], net: VGGishNet
) -> None:
    assert any(name.startswith("pproc.") for name in state)
    assert set(net.state_dict()) == {name for name in state if not name.startswith("pproc.")}
    assert sum(value.numel() for value in net.state_dict().values()) == 72_141_184


def test_every_position_of_the_switches_is_another_description() -> None:
    """Stores of embeddings in -14 .. 14 and of bytes must not be taken for each other."""
    specs = [vggish_spec(UNAV_GRID, name) for name in VGGISH_VARIANTS]
    vision = backbone_spec("i3d-rgb-vggish").vision
    digests = {BackboneSpec("any", UNAV_GRID, vision, spec).digest for spec in specs}
    assert len(digests) == 6
    assert specs[0] == vggish_spec(UNAV_GRID)
    assert [VGGISH_PCA_WEIGHTS in spec.files for spec in specs] == [False, True, True] * 2


@pytest.mark.parametrize("prefix", ["", "unav-"])
@pytest.mark.parametrize(
    ("switches", "relu", "after"),
    [
        ("", True, "none"),
        ("-pca", True, "truncate"),
        ("-pca-rounded", True, "round"),
        ("-linear", False, "none"),
        ("-linear-pca", False, "truncate"),
        ("-linear-pca-rounded", False, "round"),
    ],
)
def test_a_backbones_name_turns_the_switches(
    prefix: str,
    switches: str,
    relu: bool,
    after: PostProcessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nets: list[bool] = []
    roundings: list[PostProcessing] = []

    def net(*_: object, final_relu: bool, **__: object) -> SumNet:
        nets.append(final_relu)
        return SumNet()

    def pca(*, rounding: PostProcessing, **_: object) -> Callable[[np.ndarray], np.ndarray]:
        roundings.append(rounding)
        return lambda embeddings: embeddings + 1000

    monkeypatch.setattr("extractors.audio.vggish.load_vggish_net", net)
    monkeypatch.setattr("extractors.audio.vggish.load_vggish_pca", pca)
    monkeypatch.setattr("extractors.vision.i3d.load_i3d", lambda *_, **__: None)
    name = f"{prefix}i3d-rgb-vggish{switches}"
    backbone = load_backbone(name, device="cpu", threads=1)
    assert isinstance(backbone.audio, VGGishEncoder)
    assert nets == [relu]
    assert roundings == [after] * (after != "none")
    assert backbone.audio.spec == backbone.spec.audio == backbone_spec(name).audio
    assert VGGISH_VARIANTS[backbone.audio.spec.name] == VGGishVariant(relu, after)
    heard = backbone.audio.embed_patches(np.zeros((1, 96, 64))).embeddings
    assert (heard == (0 if after == "none" else 1000)).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"features.0.weight": torch.zeros(64, 1, 3, 3)}, r"17 tensors are missing: embeddings\.0"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "is 64x3x3x3 instead of 64x1x3x3"),
        ({"head.weight": torch.zeros(3)}, r"1 tensors are unknown: head\.weight"),
    ],
)
def test_weights_of_another_net_are_refused(
    content: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / ANY_FILE.file)
    with pytest.raises(EnvironmentFault, match=said):
        load_vggish_net(ANY_FILE, weights_dir=tmp_path)


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / VGGISH_WEIGHTS.file).write_bytes(b"something else")
    with pytest.raises(EnvironmentFault, match="is not the weights file vggish-10086976"):
        load_vggish(CPU, weights_dir=tmp_path)


def test_missing_weights_say_where_to_get_them() -> None:
    with pytest.raises(EnvironmentFault, match=r"SHA-256 10086976\.\.\., Apache-2\.0, from https"):
        load_vggish(CPU)


# --- windows of a grid ----------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [OWN_GRID, UNAV_GRID, WindowGrid(stride=3, sample_rate=16_000)])
def test_a_stretch_equals_its_windows(grid: WindowGrid) -> None:
    encoder = tiny(grid)
    width = grid.window_samples + encoder.spec.overhang
    assert width >= 15_600
    stride = grid.stride_samples
    sound = np.random.default_rng(0).uniform(-1, 1, 4 * stride + width).astype(np.float32)
    windows = np.stack([sound[n * stride : n * stride + width] for n in range(5)])
    stretch = encoder.embed_stretch(sound, 5).embeddings
    np.testing.assert_allclose(stretch, encoder.embed(windows).embeddings, rtol=0, atol=1e-6)


def test_mels_of_a_file_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 s are handed to the net in five stretches, which overlap."""
    computed: list[int] = []

    def counting(sound: np.ndarray, *, offset: float) -> np.ndarray:
        frames = log_mel(sound, offset=offset)
        computed.append(len(frames))
        return frames

    monkeypatch.setattr("extractors.audio.mel.log_mel", counting)
    sound = AudioStream(0, 0.0, 40.0, 16_000, 1, "pcm_f32le")
    info = MediaInfo(Path("made up"), "none", 0, 40.0, 0.0, None, sound)
    picture, encoder = MeanColour(), tiny(OWN_GRID)
    backbone = Backbone(BackboneSpec("any", OWN_GRID, picture.spec, encoder.spec), picture, encoder)
    rows = concatenate_rows(FeatureStream(info, backbone, sources=noise_sources(info)))
    assert rows["audio_mask"].all()
    assert len(rows["audio"]) == OWN_GRID.steps(40.0) == 157
    assert len(computed) == 5
    assert sum(computed) == 1 + (40 * 16_000 - 400) // 160


@pytest.mark.parametrize("hop", [0.96, 0.32])
def test_unavs_grid_hears_what_the_published_extractor_hears(hop: float) -> None:
    """Its hop of 0.32 s is the stride of the grid; 0.96 s is every third window."""
    sound = waveforms()["sine1k_3s"].astype(np.float32)
    encoder = tiny(UNAV_GRID)
    published = encoder.embed_sound(sound, hop_seconds=hop).embeddings
    every = round(hop / 0.32)
    steps = every * (len(published) - 1) + 1
    own = encoder.embed_stretch(sound, steps).embeddings[::every]
    np.testing.assert_array_equal(own, published)


def test_windows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 15600\)"):
        tiny(UNAV_GRID).embed(np.zeros((1, 15_360), np.float32))


# --- post-processing ------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounding", "key"), [("truncate", "uint8_tf"), ("round", "torchvggish")])
def test_bytes_equal_the_reference_exactly(
    reference: dict[str, np.ndarray], shared: Callable[[str], Path], rounding: str, key: str
) -> None:
    folder = shared(f"weights/{VGGISH_PCA_WEIGHTS.file}").parent
    pca = load_vggish_pca(rounding=rounding, weights_dir=folder)  # type: ignore[arg-type]
    whitened = pca.whiten(reference["pca/embedding"])
    np.testing.assert_allclose(whitened, reference["pca/whitened"], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(pca(reference["pca/embedding"]), reference[f"pca/{key}"])


def test_post_processing_whitens_clips_and_quantises() -> None:
    random = np.random.default_rng(1)
    vectors, means = random.standard_normal((128, 128)), random.standard_normal(128)
    embeddings = random.standard_normal((7, 128)).astype(np.float32) / 8
    whitened = np.array([vectors @ (row - means) for row in embeddings])
    levels = (np.clip(whitened, -2, 2) + 2) * 63.75
    cut = VggishPca(vectors, means[:, None], rounding="truncate")(embeddings)
    rounded = VggishPca(vectors, means, rounding="round")(embeddings)
    np.testing.assert_array_equal(cut, np.floor(levels))
    np.testing.assert_array_equal(rounded, np.rint(levels))
    assert cut.min() == 0
    assert cut.max() == 255


def test_the_switch_puts_it_behind_the_net(
    checkpoint: Path, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    for source in (checkpoint / ANY_FILE.file, shared(f"weights/{VGGISH_PCA_WEIGHTS.file}")):
        (tmp_path / source.name).symlink_to(source)
    patches = np.random.default_rng(2).standard_normal((2, 96, 64))
    plain, quantised = (
        load_vggish(CPU, name=name, weights=ANY_FILE, weights_dir=tmp_path)
        .embed_patches(patches)
        .embeddings
        for name in ("vggish", "vggish-pca")
    )
    expected = load_vggish_pca(weights_dir=tmp_path)(plain)
    np.testing.assert_array_equal(quantised, expected)
    assert set(np.unique(quantised % 1)) == {0.0}


def test_damaged_parameters_are_refused(tmp_path: Path) -> None:
    (tmp_path / VGGISH_PCA_WEIGHTS.file).write_bytes(b"PK")
    with pytest.raises(EnvironmentFault, match="2 bytes"):
        load_vggish_pca(weights_dir=tmp_path)
