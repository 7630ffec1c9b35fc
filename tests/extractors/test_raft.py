"""RAFT equals the public implementation; each pair of pictures is looked at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from extractors.i3d_vggish_spec import RAFT_WEIGHTS
from extractors.vision.raft import Raft
from extractors.vision.raft_flow import (
    FlowEstimator,
    centre_crop,
    load_raft,
    own_names,
    pad_to_scale,
    quantise,
)
from fixtures.golden_inputs import clip_uint8
from fixtures.golden_weights import read_keys, tensor
from pipeline.core.errors import EnvironmentFault

CPU = torch.device("cpu")
ITERATIONS = (1, 4, 20)  # that the reference's flow is known after
TOLERANCE = 1e-5  # of the greatest flow
CROP = 128
ANY_FILE = replace(RAFT_WEIGHTS, git_blob="")


@pytest.fixture(scope="module")
def public_state(golden: Path) -> dict[str, Tensor]:
    """A checkpoint as the public one is laid out, its values made by recipe."""
    state = {}
    for name, shape in read_keys(golden / "backbones/raft_keys.txt").items():
        values = torch.from_numpy(tensor(name.removeprefix("module."), shape))
        # The recipe's own would let the flow run off the picture within a few steps.
        state[name] = values * 0.05 if "flow_head.conv2" in name else values
    return state


@pytest.fixture(scope="module")
def net(public_state: dict[str, Tensor]) -> Raft:
    net = Raft()
    net.load_state_dict(own_names(public_state), strict=True)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    clip = torch.from_numpy(clip_uint8(3, 132, 150, seed=4)).permute(0, 3, 1, 2).float()
    return pad_to_scale(clip)


def assert_close(ours: Tensor, theirs: np.ndarray) -> None:
    assert np.abs(ours.numpy() - theirs).max() < TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_the_flow_equals_the_reference(
    iterations: int, net: Raft, pictures: Tensor, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "iterations", iterations)
    reference = np.load(golden / "backbones/raft.npz")[f"flow_iters{iterations}"]
    assert_close(net(pictures[:-1], pictures[1:])[..., ::5, ::4], reference)


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_the_flow_equals_the_reference_at_every_pixel(
    iterations: int,
    net: Raft,
    pictures: Tensor,
    shared: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(net, "iterations", iterations)
    reference = np.load(shared("golden/backbones/raft_golden.npz"))[f"flow_iters{iterations}"]
    assert_close(net(pictures[:-1], pictures[1:]), reference)


def test_the_net_has_as_many_parameters_as_the_public_one(net: Raft) -> None:
    batch_norms = sum(value.numel() for name, value in net.named_buffers() if "running" not in name)
    assert sum(value.numel() for value in net.parameters()) + batch_norms == 5_257_536


@pytest.mark.parametrize("size", [(120, 256), (256, 120), (132, 256), (256, 130)])
def test_pictures_that_the_net_cannot_take_are_refused(size: tuple[int, int], net: Raft) -> None:
    frames = torch.zeros(1, 3, *size)
    with pytest.raises(ValueError, match="sides of 128 or more that are multiples of 8"):
        net(frames, frames)


def test_the_smallest_pictures_give_a_finite_flow(net: Raft) -> None:
    frames = torch.from_numpy(clip_uint8(2, 128, 128)).permute(0, 3, 1, 2).float()
    assert net(frames[:1], frames[1:]).isfinite().all()


# --- padding, crop, quantisation ------------------------------------------------------------------


def test_padding_repeats_borders_on_both_sides_and_the_odd_one_behind() -> None:
    picture = torch.arange(3 * 133 * 341.0).reshape(1, 3, 133, 341)
    padded = pad_to_scale(picture)
    assert padded.shape == (1, 3, 136, 344)
    torch.testing.assert_close(padded[..., 1:134, 1:342], picture)
    torch.testing.assert_close(padded[..., 0, 1:342], picture[..., 0, :])
    torch.testing.assert_close(padded[..., 1:134, -2], picture[..., -1])
    torch.testing.assert_close(padded[..., 1:134, -1], picture[..., -1])


def test_the_padding_is_the_references(pictures: Tensor, golden: Path) -> None:
    left, right, top, bottom = np.load(golden / "backbones/raft.npz")["pad"]
    clip = torch.from_numpy(clip_uint8(3, 132, 150, seed=4)).permute(0, 3, 1, 2).float()
    assert pictures.shape == (3, 3, top + 132 + bottom, left + 150 + right)
    assert torch.equal(pictures[..., top : top + 132, left : left + 150], clip)


def test_pictures_that_fit_are_not_padded() -> None:
    picture = torch.rand(2, 3, 136, 256)
    torch.testing.assert_close(pad_to_scale(picture), picture, rtol=0, atol=0)


def test_the_crop_is_the_middle() -> None:
    x = torch.arange(344.0).expand(256, 344)
    assert centre_crop(x, 224)[0, 0] == 60
    assert centre_crop(x, 224).shape == (224, 224)


@pytest.mark.parametrize(
    ("pixels", "whole"),
    [(0, 128), (-20, 0), (20, 256), (-1e9, 0), (1e9, 256), (1, 134), (-1, 122), (0.07, 128)],
)
def test_flow_is_clamped_and_rounded_to_whole_numbers(pixels: float, whole: int) -> None:
    assert quantise(torch.tensor(float(pixels))) == whole


# --- each pair once -------------------------------------------------------------------------------


class Counting(Raft):
    """Counts the pairs that it sees; its flow is the mean of the first picture and its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = 0

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        self.pairs += len(first)
        change = (second - first).mean(dim=1, keepdim=True) / 16
        return torch.cat([change, first.mean(dim=1, keepdim=True) / 16], dim=1)


def counted(**options: int) -> tuple[FlowEstimator, Counting]:
    net = Counting()
    return FlowEstimator(net, device=CPU, crop=CROP, threads=1, **options), net


def windows_of(clip: np.ndarray, *, window: int, stride: int) -> np.ndarray:
    starts = range(0, len(clip) - window + 1, stride)
    return np.stack([clip[start : start + window] for start in starts])


def test_overlapping_windows_share_their_pairs_in_one_call() -> None:
    estimator, net = counted()
    clip = clip_uint8(12, 130, 136)
    flows = estimator(windows_of(clip, window=8, stride=2))
    assert flows.shape == (3, 7, 2, CROP, CROP)
    assert net.pairs == 11
    np.testing.assert_array_equal(flows[0, 2:], flows[1, :5])


def test_overlapping_windows_share_their_pairs_across_calls() -> None:
    estimator, net = counted()
    windows = windows_of(clip_uint8(12, 130, 136), window=8, stride=2)
    one_by_one = np.concatenate([estimator(window[None]) for window in windows])
    assert net.pairs == 11
    np.testing.assert_array_equal(one_by_one, counted()[0](windows))


def test_a_still_picture_is_looked_at_once() -> None:
    estimator, net = counted()
    still = np.repeat(clip_uint8(1, 130, 136), 9, axis=0)
    estimator(still[None])
    assert net.pairs == 1


def test_the_same_pictures_in_the_other_order_are_another_pair() -> None:
    estimator, net = counted()
    clip = clip_uint8(2, 130, 136)
    there, back = estimator(clip[None]), estimator(clip[None, ::-1])
    assert net.pairs == 2
    assert not np.array_equal(there, back)


def test_what_was_pushed_out_is_computed_again() -> None:
    estimator, net = counted(remember=2)
    clip = clip_uint8(6, 130, 136)[None]
    first = estimator(clip)
    assert net.pairs == 5
    np.testing.assert_array_equal(estimator(clip), first)
    assert net.pairs == 8


def test_the_estimator_pads_crops_and_quantises_the_nets_flow(net: Raft) -> None:
    clip = clip_uint8(3, 132, 150, seed=4)
    found = FlowEstimator(net, device=CPU, crop=CROP, threads=1)(clip[None])[0]
    padded = pad_to_scale(torch.from_numpy(clip).permute(0, 3, 1, 2).float())
    expected = quantise(centre_crop(net(padded[:-1], padded[1:]), CROP)).numpy()
    assert found.min() >= 0
    assert found.max() <= 256
    np.testing.assert_array_equal(found, np.round(found))
    # A value on the edge between two numbers may fall to either side of it.
    assert (found != expected).mean() < 1e-3
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "windows",
    [
        np.zeros((1, 1, 130, 136, 3), np.uint8),
        np.zeros((1, 2, 127, 136, 3), np.uint8),
        np.zeros((2, 130, 136, 3), np.uint8),
        np.zeros((1, 2, 130, 136, 3), np.float32),
    ],
    ids=["one-frame", "too-small", "no-window", "not-bytes"],
)
def test_windows_of_another_form_are_refused(windows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="windows must be"):
        counted()[0](windows)


def test_no_windows_give_no_flow() -> None:
    assert counted()[0](np.zeros((0, 3, 130, 136, 3), np.uint8)).shape == (0, 2, 2, CROP, CROP)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "older"])
def test_the_public_layout_is_loaded(
    zipped: bool, net: Raft, public_state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / RAFT_WEIGHTS.file
    torch.save(public_state, path, _use_new_zipfile_serialization=zipped)
    loaded = load_raft(CPU, weights=ANY_FILE, weights_dir=tmp_path).state_dict()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


def test_a_checkpoint_in_half_precision_is_loaded_and_runs(
    public_state: dict[str, Tensor], pictures: Tensor, tmp_path: Path
) -> None:
    halved = {name: value.half() for name, value in public_state.items()}
    torch.save(halved, tmp_path / RAFT_WEIGHTS.file)
    net = load_raft(CPU, weights=ANY_FILE, iterations=1, weights_dir=tmp_path)
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
    assert net(pictures[:1], pictures[1:2]).isfinite().all()


def test_missing_weights_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        load_raft(CPU, weights_dir=tmp_path)
    for part in ("raft-sintel.pth", RAFT_WEIGHTS.git_blob, "BSD-3-Clause", RAFT_WEIGHTS.source):
        assert part in str(caught.value)


def test_another_file_of_that_name_is_refused(
    public_state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(public_state, tmp_path / RAFT_WEIGHTS.file)
    with pytest.raises(EnvironmentFault, match="has git blob"):
        load_raft(CPU, weights_dir=tmp_path)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "cut off"])
def test_bad_weights_are_refused_with_the_reason(
    change: str, public_state: dict[str, Tensor], tmp_path: Path
) -> None:
    path, state = tmp_path / RAFT_WEIGHTS.file, dict(public_state)
    key = "module.fnet.conv1.bias"
    if change == "missing":
        del state[key]
    elif change == "unknown":
        state["module.fnet.conv9.bias"] = torch.zeros(3)
    else:
        state[key] = torch.zeros(65)
    torch.save(state, path)
    if change == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    said = "is refused" if change == "cut off" else r"another net: .*fnet\.conv"
    with pytest.raises(EnvironmentFault, match=said):
        load_raft(CPU, weights=ANY_FILE, weights_dir=tmp_path)
