"""No array and no list of names of the reference material is left out.

Tests of the nets read committed copies. Here these are held to the reference material itself, array
by array; what has no copy is named together with the test that reads it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from extractors.checkpoints.load import load_state
from extractors.lite_spec import LITE
from extractors.vision.resize import resize_and_crop
from extractors.weights.find import find_weights
from fixtures.golden_inputs import clip_uint8, waveforms
from fixtures.golden_weights import read_keys
from fixtures.onepeace import base_state, video_state

Arrays = Mapping[str, np.ndarray]

# Reference file -> its committed copy.
COPIES = {
    "efficientnet_lite0_golden": "efficientnet_lite0_golden",
    "i3d_golden": "i3d_golden",
    "onepeace_tiny_golden": "onepeace_tiny",
    "onepeace_video_tiny_golden": "onepeace_video_tiny",
    "raft_golden": "raft",
    "vggish_golden": "vggish_golden",
    "yamnet_golden": "yamnet_golden",
}
# Arrays that are too large to be committed -> the test that reads them where they lie.
READ_THERE = {
    "crop_frame0": "test_golden_material",
    "crop_frame23": "test_golden_material",
    "shared_rel/audio_src": "test_onepeace",
    "rp_bucket_audio_512": "test_onepeace",
    "rp_bucket_image_16": "test_onepeace",
    "rp_bucket_text_256": "test_onepeace",
    "mel_matrix": "test_mel",
    **{f"{name}/log_mel": "test_vggish" for name in waveforms()},
}


def thinned(name: str, array: np.ndarray) -> np.ndarray:
    """An array as it is committed: of RAFT's flow every 5th row and 4th column."""
    return array[..., ::5, ::4] if name.startswith("flow_iters") else array


@pytest.mark.parametrize("file", COPIES)
def test_every_array_is_committed_or_read_where_it_lies(
    file: str, golden: Path, shared: Callable[[str], Path]
) -> None:
    reference: Arrays = np.load(shared(f"golden/backbones/{file}.npz"))
    copy: Arrays = np.load(golden / f"backbones/{COPIES[file]}.npz")
    for name, array in reference.items():
        if name not in READ_THERE:
            np.testing.assert_array_equal(copy[name], thinned(name, array), err_msg=name)


def test_there_are_no_other_files(shared: Callable[[str], Path]) -> None:
    files = {path.stem for path in shared("golden/backbones").glob("*.npz")}
    assert files == {*COPIES, "onepeace_tiny_state", "onepeace_video_tiny_state"}


def test_stored_weights_are_those_that_the_recipe_makes(shared: Callable[[str], Path]) -> None:
    """The state dicts of the narrow ONE-PEACE; two of their entries are no weights."""
    video = {name.removeprefix("backbone."): v for name, v in video_state(frames=4).items()}
    for file, made in (("onepeace_tiny_state", base_state()), ("onepeace_video_tiny_state", video)):
        stored: Arrays = np.load(shared(f"golden/backbones/{file}.npz"))
        for name, array in stored.items():
            if not name.endswith((".version", ".position_idx")):
                np.testing.assert_array_equal(made[name], array, err_msg=name)


def test_the_scaled_and_cut_pictures_are_the_references(shared: Callable[[str], Path]) -> None:
    reference: Arrays = np.load(shared("golden/backbones/i3d_golden.npz"))
    crop = resize_and_crop(clip_uint8(24, 240, 320), shorter_side=256, crop=224)
    np.testing.assert_array_equal(crop[0], reference["crop_frame0"])
    np.testing.assert_array_equal(crop[23], reference["crop_frame23"])


# --- lists of names -------------------------------------------------------------------------------


def listed(path: Path, *, shape: int = 1) -> dict[str, tuple[int, ...]]:
    """Name to shape of a list with `` | `` between its columns."""
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in path.read_text("utf-8").splitlines()
        if "|" in line and not line.startswith("#")
    ]
    return {row[0]: ast.literal_eval(row[shape]) for row in rows}


def spread(condensed: Mapping[str, tuple[int, ...]], *, layers: int) -> dict[str, tuple[int, ...]]:
    """A list in which ``layers.*`` stands for all layers, in full."""
    return {
        name.replace(".layers.*.", f".layers.{layer}."): shape
        for name, shape in condensed.items()
        for layer in (range(layers) if ".layers.*." in name else [0])
    }


@pytest.mark.parametrize(("net", "column"), [("onepeace", 1), ("raft", 1), ("vggish", 2)])
def test_lists_of_names_are_committed_whole(
    net: str, column: int, golden: Path, shared: Callable[[str], Path]
) -> None:
    """Those of I3D, in three families, too, by the next test."""
    committed = read_keys(golden / f"backbones/{net}_keys.txt")
    reference = listed(shared(f"golden/keys/{net}_keys.txt"), shape=column)
    assert spread(committed, layers=40) == reference


def test_the_list_of_i3d_is_committed_whole(golden: Path, shared: Callable[[str], Path]) -> None:
    committed = (golden / "backbones/i3d_keys.txt").read_text("utf-8").splitlines()
    lines = shared("golden/keys/i3d_keys.txt").read_text("utf-8").splitlines()
    reference = [line.rpartition(" | ")[0] for line in lines if not line.startswith("#")]
    assert committed == reference


def test_efficientnets_installed_weights_have_the_listed_names(
    shared: Callable[[str], Path],
) -> None:
    weights = LITE.vision.weights
    state = load_state(find_weights(weights), weights)
    found = {name: tuple(value.shape) for name, value in state.items()}
    assert found == listed(shared("golden/keys/efficientnet_lite0_keys.txt"))
