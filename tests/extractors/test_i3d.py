"""I3D equals the public implementations, from any of their checkpoints, on any grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.i3d_vggish_spec import I3D_RGB, I3D_RGB_FLOW, I3D_RGB_WEIGHTS, Padding
from extractors.spec import FramePreparer, StretchEncoder, VisionEncoder
from extractors.vision.i3d import (
    FLOW,
    RGB,
    I3DEncoder,
    I3DFlowEncoder,
    I3DStream,
)
from extractors.vision.i3d_keys import (
    BN_EPS_ORIGINAL,
    BN_EPS_VIDEO_FEATURES,
    canonical_shapes,
    fold,
    recognise,
    to_canonical,
)
from extractors.vision.i3d_net import Conv, I3DNet, pool_last
from extractors.vision.i3d_overlap import SharedI3D, to_net
from extractors.vision.raft_flow import FlowEstimator, quantise
from extractors.vision.resize import resize_and_crop
from extractors.windows import WindowGrid
from fixtures.golden_inputs import clip_uint8
from fixtures.golden_weights import tensor
from fixtures.i3d_reference import ReferenceI3D, recipe_state

CPU = torch.device("cpu")
TOLERANCE = 1e-5
OWN_GRID = WindowGrid()
ANY_FILE = replace(I3D_RGB_WEIGHTS, git_blob="")
VARIANTS: dict[str, tuple[float, Padding]] = {
    "vf": (BN_EPS_VIDEO_FEATURES, "static"),
    "pier": (BN_EPS_ORIGINAL, "same"),
}


def recipe(channels: int) -> dict[str, Tensor]:
    """The weights of the golden outputs, under the names of video_features."""
    shapes = canonical_shapes(channels).items()
    return {name: torch.from_numpy(tensor(name, shape)) for name, shape in shapes}


def make_net(weights: Mapping[str, Tensor], variant: str, *, channels: int = RGB) -> I3DNet:
    bn_eps, padding = VARIANTS[variant]
    net = I3DNet(channels, padding=padding)
    net.load_state_dict(fold(weights, bn_eps=bn_eps), strict=True)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def rgb_weights() -> dict[str, Tensor]:
    return recipe(RGB)


@pytest.fixture(scope="module")
def nets(rgb_weights: dict[str, Tensor]) -> dict[str, I3DNet]:
    return {variant: make_net(rgb_weights, variant) for variant in VARIANTS}


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "backbones/i3d_golden.npz"))


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """The prepared clip, (24, 224, 224, 3)."""
    return resize_and_crop(clip_uint8(24, 240, 320), shorter_side=256, crop=224)


def assert_close(ours: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < TOLERANCE * np.linalg.norm(theirs)
    assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()


# --- the net against the public implementations ---------------------------------------------------


def test_the_prepared_clip_has_the_reference_bytes(
    crop: np.ndarray, reference: dict[str, np.ndarray]
) -> None:
    clip = clip_uint8(24, 240, 320)
    assert hashlib.sha256(clip.tobytes()).hexdigest() == str(reference["clip_sha256"])
    assert hashlib.sha256(crop.tobytes()).hexdigest() == str(reference["crop_sha256"])
    scaled = resize_and_crop(clip[:1], shorter_side=256)
    assert (24, 3, *scaled.shape[1:3]) == tuple(reference["resized_shape"])


@pytest.mark.parametrize("frames", [24, 16, 10, 17])
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_and_logits_equal_the_reference(
    nets: dict[str, I3DNet],
    crop: np.ndarray,
    reference: dict[str, np.ndarray],
    variant: str,
    frames: int,
) -> None:
    net = nets[variant]
    pooled = net.pooled(to_net(torch.from_numpy(crop[:frames])))
    logits = net.logits(pooled.transpose(1, 2)).transpose(1, 2)
    expected = f"{variant}/T{frames}"
    if variant == "vf":
        assert_close(pooled.mean(dim=2), reference[f"{expected}/features"])
        assert_close(logits.mean(dim=2), reference[f"{expected}/logits"])
    else:
        assert_close(pooled, reference[f"{expected}/features"][..., 0, 0])
        assert_close(logits, reference[f"{expected}/logits"])
        assert_close(logits.mean(dim=2), reference[f"hassony_new/T{frames}/logits"])


@pytest.mark.parametrize(("variant", "frames"), [("vf", 24), ("pier", 17)])
def test_every_block_equals_the_reference(
    nets: dict[str, I3DNet],
    crop: np.ndarray,
    reference: dict[str, np.ndarray],
    variant: str,
    frames: int,
) -> None:
    names = {
        key.rpartition("/")[2].lower(): key
        for key in reference
        if f"{variant}/T{frames}/ep/" in key
    }
    assert set(names) == set(nets[variant].layers)
    x = to_net(torch.from_numpy(crop[:frames]))
    for name, layer in nets[variant].layers.items():
        x = layer(x)
        expected = reference[names[name]]
        assert tuple(x.shape) == tuple(reference[names[name].replace("/ep/", "/shape/")])
        flat = x.contiguous().double().flatten()
        places = np.linspace(0, flat.numel() - 1, 16).astype(np.int64)
        summary = [flat.mean(), flat.std(correction=0), flat.min(), flat.max()]
        assert_close(np.array([*summary, *flat[places]]), expected)


def test_flow_features_equal_the_reference(reference: dict[str, np.ndarray]) -> None:
    noise = np.random.RandomState(7).standard_normal((24, 2, 256, 344)).astype(np.float32) * 6
    levels = quantise(torch.from_numpy(noise[:, :, 16:240, 60:284]))
    x = to_net(levels.movedim(1, -1))
    assert_close(np.array([x.min(), x.max()]), reference["flow/pre_minmax"])
    assert_close(x[0, :, 0, 100, :16], reference["flow/pre_values"])
    assert x.max() > 1  # the published rounding lets +20 pixels be one level too many
    weights = recipe(FLOW)
    assert_close(make_net(weights, "vf", channels=FLOW)(x), reference["flow/features"])
    pooled = make_net(weights, "pier", channels=FLOW).pooled(x)
    assert_close(pooled, reference["flow/pier_features"][..., 0, 0])


@pytest.mark.parametrize(("steps", "weights"), [(2, [0.5, 0.5]), (3, [0.25, 0.5, 0.25])])
def test_the_feature_is_a_weighted_mean_over_the_steps_that_are_left(
    steps: int, weights: list[float]
) -> None:
    """16 frames leave two steps in time, 24 three."""
    x = torch.rand(1, 1024, steps, 7, 7)
    expected = (x.mean(dim=(3, 4)) * torch.tensor(weights)).sum(dim=2)
    torch.testing.assert_close(pool_last(x).mean(dim=2), expected)


# --- overlapping windows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "stride", "variant"),
    [(16, 4, "vf"), (24, 8, "vf"), (11, 3, "pier"), (10, 20, "vf")],
)
def test_shared_windows_equal_windows_alone(
    nets: dict[str, I3DNet], window: int, stride: int, variant: str
) -> None:
    """To the bit; and both equal the net that shares nothing."""
    count = 2
    clip = torch.from_numpy(clip_uint8((count - 1) * stride + window, 224, 224, seed=5))
    shared = SharedI3D(nets[variant], window=window, stride=stride)
    with torch.inference_mode():
        together = shared(clip, count)
        windows = [clip[n * stride : n * stride + window] for n in range(count)]
        alone = torch.cat([shared(frames, 1) for frames in windows[1:]])
        plain = nets[variant](to_net(windows[1]))
    assert torch.equal(together[1:], alone)
    assert_close(together[1:2], plain)


def test_shared_windows_equal_the_straightforward_net() -> None:
    reference = ReferenceI3D(bn_eps=BN_EPS_VIDEO_FEATURES, padding="static").eval()
    state = recipe_state(reference)
    reference.load_state_dict(state)
    net = make_net(to_canonical(state, recognise(set(state))), "vf")
    clip = torch.from_numpy(clip_uint8(32, 224, 224, seed=2))
    with torch.inference_mode():
        ours = SharedI3D(net, window=24, stride=8)(clip, 2)
        theirs = [reference(to_net(clip[n : n + 24])).mean(dim=(2, 3, 4)) for n in (0, 8)]
    assert_close(ours, torch.cat(theirs))


@pytest.mark.parametrize(("window", "stride", "taps"), [(16, 4, 2 * 7), (24, 8, 4 * 7)])
def test_a_further_window_costs_its_new_places_only(
    window: int, stride: int, taps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 of the 8 places of 16 frames every 4; 4 of the 12 of 24 every 8."""
    net = SimpleNamespace(
        layers={"conv3d_1a_7x7": Conv(3, 1, 7, stride=2)},
        padding="static",
        behind_stem=lambda x: torch.zeros(1, 1024),
    )
    shared = SharedI3D(net, window=window, stride=stride)  # type: ignore[arg-type]
    computed: list[int] = []

    def part(frames: Tensor, low: int, high: int) -> Tensor:
        assert len(frames) == high - low
        computed.append(high - low)
        return torch.zeros(1, 1, 1, 1, 1)

    monkeypatch.setattr(shared, "_part", part)
    monkeypatch.setattr(shared, "_finish", lambda x: x)
    costs = []
    for count in (6, 7):
        computed.clear()
        shared(torch.zeros((count - 1) * stride + window, 1, 1, 3), count)
        costs.append(sum(computed))
    assert costs[1] - costs[0] == taps


# --- the encoders ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(nets: dict[str, I3DNet]) -> I3DEncoder:
    stream = I3DStream(nets["vf"], grid=OWN_GRID, device=CPU, threads=2)
    return I3DEncoder(stream, I3D_RGB, grid=OWN_GRID)


def test_it_is_a_vision_encoder_that_prepares_and_shares(encoder: I3DEncoder) -> None:
    checked: VisionEncoder = encoder
    assert checked.spec.dim == 1024
    assert isinstance(encoder, FramePreparer)
    assert isinstance(encoder, StretchEncoder)


def test_a_stretch_equals_its_windows_whatever_the_threads(
    nets: dict[str, I3DNet], encoder: I3DEncoder
) -> None:
    frames = encoder.prepare(clip_uint8(24, 256, 256, seed=9))
    stretch = encoder.embed_stretch(frames, 3).embeddings
    assert stretch.shape == (3, 1024)
    alone = encoder.embed(frames[None, 8:24]).embeddings
    np.testing.assert_array_equal(stretch[2:], alone)
    one = I3DEncoder(
        I3DStream(nets["vf"], grid=OWN_GRID, device=CPU, threads=1), I3D_RGB, grid=OWN_GRID
    )
    np.testing.assert_array_equal(one.embed_stretch(frames, 3).embeddings, stretch)


def test_no_windows_give_no_rows(encoder: I3DEncoder) -> None:
    empty = np.zeros((0, 16, 224, 224, 3), np.uint8)
    assert encoder.embed(empty).embeddings.shape == (0, 1024)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 15, 224, 224, 3), np.uint8),
        ((1, 16, 256, 256, 3), np.uint8),
        ((16, 224, 224, 3), np.uint8),
        ((1, 16, 224, 224, 3), np.float32),
    ],
)
def test_other_frames_are_refused(encoder: I3DEncoder, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match=r"\(N, 16, H, W, 3\) uint8 with 224x224"):
        encoder.embed(np.zeros(shape, dtype))


def test_windows_of_fewer_than_ten_frames_are_refused(nets: dict[str, I3DNet]) -> None:
    with pytest.raises(ValueError, match="windows of 10 frames, not 9"):
        I3DStream(nets["vf"], grid=WindowGrid(window=9), device=CPU)


class StillRaft(torch.nn.Module):
    """A flow that says how much brighter the next picture is."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        brighter = (second - first).mean(dim=1, keepdim=True) / 10
        return torch.cat([brighter, -brighter], dim=1)


def test_flow_and_rgb_stand_side_by_side_and_flow_needs_one_frame_more(
    nets: dict[str, I3DNet],
) -> None:
    grid = WindowGrid(fps=Fraction(25), window=10, stride=4)
    flow_net = make_net(recipe(FLOW), "vf", channels=FLOW)
    rgb = I3DStream(nets["vf"], grid=grid, device=CPU, threads=1)
    flow = I3DStream(flow_net, grid=grid, device=CPU, threads=1)
    estimator = FlowEstimator(StillRaft(), device=CPU, threads=1)  # type: ignore[arg-type]
    encoder = I3DFlowEncoder(rgb, flow, estimator, I3D_RGB_FLOW, grid=grid)
    frames = encoder.prepare(clip_uint8(15, 256, 264, seed=3))
    assert frames.shape == (15, 256, 264, 3)
    stretch = encoder.embed_stretch(frames, 2).embeddings
    assert stretch.shape == (2, 2048)
    alone = encoder.embed(frames[None, 4:15]).embeddings
    np.testing.assert_array_equal(stretch[1:], alone)
    pictures = frames[4:14, 16:240, 20:244]
    np.testing.assert_array_equal(alone[:, :1024], rgb.windows(pictures[None]))
    change = np.diff(frames[4:15].astype(np.float32), axis=0).mean(axis=-1)[:, 16:240, 20:244] / 10
    levels = quantise(torch.from_numpy(np.stack([change, -change], axis=-1))).numpy()
    np.testing.assert_allclose(alone[:, 1024:], flow.windows(levels[None]), rtol=1e-3, atol=1e-3)
