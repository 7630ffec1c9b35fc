"""I3D's weights come from any public family of checkpoints, and from no other net's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from extractors.checkpoints.tensorflow import DATA_SUFFIX
from extractors.grids import OWN_GRID, UNAV_GRID
from extractors.i3d_vggish_spec import (
    I3D_RGB_WEIGHTS,
    I3D_VARIANTS,
    ORIGINAL,
    VIDEO_FEATURES,
    I3DVariant,
)
from extractors.registry import backbone_spec
from extractors.spec import EncoderSpec
from extractors.vision.i3d import FLOW, RGB, I3DEncoder, I3DFlowEncoder, load_i3d, load_i3d_net
from extractors.vision.i3d_keys import (
    BN_EPS_ORIGINAL,
    BN_EPS_VIDEO_FEATURES,
    canonical_shapes,
    fold,
    recognise,
    schemes,
    to_canonical,
)
from extractors.vision.raft import Raft
from fixtures.golden_weights import tensor
from fixtures.tf_bundle import write_i3d_bundle
from pipeline.core.errors import EnvironmentFault

CPU = torch.device("cpu")
ANY_FILE = replace(I3D_RGB_WEIGHTS, git_blob="")


@pytest.fixture(scope="module")
def rgb_weights() -> dict[str, Tensor]:
    shapes = canonical_shapes(RGB).items()
    return {name: torch.from_numpy(tensor(name, shape)) for name, shape in shapes}


def test_all_names_of_all_families_are_known(golden: Path) -> None:
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in (golden / "backbones/i3d_keys.txt").read_text("utf-8").splitlines()
    ]
    used = [row for row in rows if not row[0].endswith("num_batches_tracked")]
    shapes = canonical_shapes(RGB)
    assert {row[0] for row in used} == set(shapes)
    for ours, _, _, shape in used:
        sides = tuple(int(side) for side in shape.strip("()").split(",") if side.strip())
        assert shapes[ours] == sides
    own, piergiaj, tensorflow, flow = schemes()
    for ours, theirs, variable, _ in used:
        assert own.keys[ours] == ours
        assert piergiaj.keys[ours] == theirs
        if variable != "-":
            assert tensorflow.keys[ours] == variable
            assert flow.keys[ours] == variable.replace("RGB/", "Flow/")


def in_family(weights: Mapping[str, Tensor], family: int) -> dict[str, Tensor]:
    """Weights laid out as one family has them; TensorFlow's have no scale."""
    scheme = schemes()[family]
    state = {}
    for ours, theirs in scheme.keys.items():
        value = weights[ours]
        if scheme.time_first:
            if ours.endswith("batch3d.weight"):
                continue
            value = value.permute(2, 3, 4, 1, 0) if value.ndim == 5 else value
            if "moving" in theirs:
                value = value.view(1, 1, 1, 1, -1)
        state[theirs] = value.contiguous()
    return state


@pytest.mark.parametrize("family", range(4), ids=["video_features", "piergiaj", "tf", "tf-flow"])
def test_each_family_loads_to_the_same_net(rgb_weights: dict[str, Tensor], family: int) -> None:
    state = in_family(rgb_weights, family)
    scheme = recognise(set(state))
    assert scheme.name == schemes()[family].name
    canonical = to_canonical(state, scheme)
    assert set(canonical) == set(rgb_weights)
    for name, value in canonical.items():
        expected = rgb_weights[name]
        if scheme.time_first and name.endswith("batch3d.weight"):
            expected = torch.ones_like(expected)
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("layout", ["plain", "with counters", "older layout"])
def test_a_checkpoint_is_loaded_from_its_folder(
    rgb_weights: dict[str, Tensor], tmp_path: Path, layout: str
) -> None:
    state = dict(rgb_weights)
    if layout == "with counters":
        state["mixed_3b.branch_0.batch3d.num_batches_tracked"] = torch.tensor(7)
    zipped = layout != "older layout"
    torch.save(state, tmp_path / ANY_FILE.file, _use_new_zipfile_serialization=zipped)
    net = load_i3d_net(ANY_FILE, weights_dir=tmp_path)
    expected = fold(rgb_weights, bn_eps=BN_EPS_VIDEO_FEATURES)
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    original = load_i3d_net(ANY_FILE, bn_eps=BN_EPS_ORIGINAL, padding="same", weights_dir=tmp_path)
    assert original.padding == "same"
    name = "layers.conv3d_2b_1x1.weight"
    assert not torch.equal(original.state_dict()[name], expected[name])


# --- backbones of all three families --------------------------------------------------------------


def unhashed(spec: EncoderSpec) -> EncoderSpec:
    """A description whose weights are made here."""
    first, *more = (replace(file, git_blob="") for file in spec.files)
    return replace(spec, weights=first, more_weights=tuple(more))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("i3d-rgb-vggish", VIDEO_FEATURES),
        ("i3d-original-rgb-vggish", ORIGINAL),
        ("i3d-deepmind-rgb-vggish", ORIGINAL),
    ],
)
def test_each_family_has_a_backbone_with_the_arithmetic_of_its_net(
    rgb_weights: dict[str, Tensor], tmp_path: Path, name: str, variant: I3DVariant
) -> None:
    spec = unhashed(backbone_spec(name).vision)
    scheme = schemes()[list(I3D_VARIANTS).index(spec.name) // 2]
    if scheme.time_first:
        stem = spec.weights.file.removesuffix(DATA_SUFFIX)
        written = write_i3d_bundle(tmp_path, stem, channels=RGB)
        canonical = to_canonical({key: torch.tensor(v) for key, v in written.items()}, scheme)
    else:
        canonical = rgb_weights
        state = {scheme.keys[key]: value for key, value in canonical.items()}
        torch.save(state, tmp_path / spec.weights.file)
    encoder = load_i3d(CPU, grid=OWN_GRID, spec=spec, weights_dir=tmp_path)
    assert isinstance(encoder, I3DEncoder)
    net = encoder._stream._net
    assert (encoder.spec, net.padding) == (spec, variant.padding)
    expected = fold(canonical, bn_eps=variant.bn_eps)
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert f"epsilon 1e-{3 if variant is ORIGINAL else 5} and {variant.padding} padding" in (
        spec.preprocessing
    )


def test_both_checkpoints_of_tensorflow_lie_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractors.vision.i3d.load_raft", lambda *_, **__: Raft())
    spec = unhashed(backbone_spec("i3d-deepmind-vggish").vision)
    for place, channels in ((0, RGB), (2, FLOW)):
        stem = spec.files[place].file.removesuffix(DATA_SUFFIX)
        write_i3d_bundle(tmp_path, stem, channels=channels, seed=channels)
    encoder = load_i3d(CPU, grid=OWN_GRID, spec=spec, weights_dir=tmp_path)
    assert isinstance(encoder, I3DFlowEncoder)
    kernels = [
        stream._net.state_dict()["layers.conv3d_1a_7x7.weight"]
        for stream in (encoder._rgb, encoder._flow)
    ]
    assert [kernel.shape[1] for kernel in kernels] == [RGB, FLOW]
    assert encoder._flow._net.padding == "same"


def test_a_missing_index_is_asked_for_by_its_name(tmp_path: Path) -> None:
    spec = unhashed(backbone_spec("i3d-deepmind-rgb-vggish").vision)
    write_i3d_bundle(tmp_path, "kinetics-i3d-rgb.ckpt", channels=RGB)
    (tmp_path / "kinetics-i3d-rgb.ckpt.index").unlink()
    with pytest.raises(
        EnvironmentFault, match=r"weights kinetics-i3d-rgb\.ckpt\.index.*not on this"
    ):
        load_i3d(CPU, grid=OWN_GRID, spec=spec, weights_dir=tmp_path)


# --- what is refused ------------------------------------------------------------------------------


def test_a_missing_file_names_everything_about_itself(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        load_i3d(CPU, grid=UNAV_GRID, weights_dir=tmp_path)
    said = str(caught.value)
    for part in (
        *("i3d_rgb.pt", "about 50,847,752 bytes", "Apache-2.0", "--weights-dir"),
        *("git blob 2a7c22e23e6c74f50a0166ce61110bccd2ab48bb", "github.com/v-iashin"),
    ):
        assert part in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("mixed_4d.branch_1.1.batch3d.bias"), r"1 tensors are missing: mixed_4d"),
        (lambda s: s.update({"extra.weight": torch.ones(1)}), r"1 tensors are unknown: extra"),
        (
            lambda s: s.update({"conv3d_1a_7x7.conv3d.weight": torch.ones(64, 2, 7, 7, 7)}),
            r"conv3d_1a_7x7.conv3d.weight is 64x2x7x7x7 instead of 64x3x7x7x7",
        ),
    ],
    ids=["missing", "unknown", "flow instead of RGB"],
)
def test_weights_of_another_net_are_refused(
    rgb_weights: dict[str, Tensor],
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], object],
    said: str,
) -> None:
    state = dict(rgb_weights)
    change(state)
    torch.save(state, tmp_path / ANY_FILE.file)
    with pytest.raises(EnvironmentFault, match=rf"weights of another net: .*{said}"):
        load_i3d_net(ANY_FILE, weights_dir=tmp_path)


def test_another_file_under_the_name_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / I3D_RGB_WEIGHTS.file)
    with pytest.raises(EnvironmentFault, match=r"has git blob .* and is not the weights file"):
        load_i3d_net(weights_dir=tmp_path)


def test_a_file_cut_off_is_refused(rgb_weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / ANY_FILE.file
    torch.save(rgb_weights, path)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(EnvironmentFault, match="is refused: its archive is cut off or damaged"):
        load_i3d_net(ANY_FILE, weights_dir=tmp_path)
