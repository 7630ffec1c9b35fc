"""TensorFlow checkpoints are read without TensorFlow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.tensorflow import DATA_SUFFIX, crc32c, read_tf_checkpoint
from extractors.i3d_vggish_spec import DEEPMIND_RGB_WEIGHTS
from extractors.spec import WeightsFile
from extractors.vision.i3d import load_i3d_net
from pipeline.core.errors import EnvironmentFault

DATA = f"model.ckpt{DATA_SUFFIX}"
INDEX = "model.ckpt.index"


@pytest.fixture
def checkpoint(golden: Path, tmp_path: Path) -> Path:
    """A copy of what TensorFlow wrote."""
    shutil.copytree(golden / "backbones/tf", tmp_path, dirs_exist_ok=True)
    return tmp_path / DATA


def written() -> dict[str, np.ndarray]:
    """What was given to TensorFlow to write."""
    random = np.random.RandomState(0)
    root = "RGB/inception_i3d"
    values = {
        f"{root}/Conv3d_1a_7x7/conv_3d/w": random.randn(2, 2, 2, 3, 4).astype(np.float32),
        f"{root}/Conv3d_1a_7x7/batch_norm/beta": random.randn(4).astype(np.float32),
        f"{root}/Conv3d_1a_7x7/batch_norm/moving_mean": random.randn(1, 1, 1, 1, 4).astype("f4"),
        f"{root}/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w": random.randn(1, 1, 1, 2, 300).astype(
            "f4"
        ),
        "global_step": np.array(1234567890123, np.int64),
        "double": random.randn(3),
    }
    for i in range(120):
        name = f"{root}/Mixed_4{'bcdef'[i % 5]}/Branch_{i // 5}/Conv3d_0a_1x1/batch_norm/beta"
        values[name] = random.randn(2).astype(np.float32)
    return values


def test_every_variable_is_what_tensorflow_wrote(checkpoint: Path) -> None:
    found, expected = read_tf_checkpoint(checkpoint), written()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the CRC catalogue


@pytest.mark.parametrize("keep", [0, 20, 47, 48, 3000, 6949])
def test_an_index_cut_off_is_refused(checkpoint: Path, keep: int) -> None:
    index = checkpoint.with_name(INDEX)
    index.write_bytes(index.read_bytes()[:keep])
    with pytest.raises(CheckpointFault, match=r"cut off|damaged|checksum"):
        read_tf_checkpoint(checkpoint)


@pytest.mark.parametrize("place", [0, 17, 800, 2500, 6000, 6900])
def test_a_changed_byte_of_the_index_is_noticed(checkpoint: Path, place: int) -> None:
    index = checkpoint.with_name(INDEX)
    content = bytearray(index.read_bytes())
    content[place] ^= 0x40
    index.write_bytes(content)
    with pytest.raises(CheckpointFault, match=r"checksum|compressed|damaged|cut off"):
        read_tf_checkpoint(checkpoint)


def test_values_cut_off_are_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointFault, match="cut off before the end of its variable"):
        read_tf_checkpoint(checkpoint)


def test_an_index_that_is_not_there_is_named(checkpoint: Path) -> None:
    checkpoint.with_name(INDEX).unlink()
    with pytest.raises(CheckpointFault, match=r"model\.ckpt\.index is not beside it"):
        read_tf_checkpoint(checkpoint)


def test_a_checkpoint_of_another_net_is_refused_by_the_loader(checkpoint: Path) -> None:
    weights = WeightsFile(DATA, 0, "", "Apache-2.0", DEEPMIND_RGB_WEIGHTS.source)
    with pytest.raises(EnvironmentFault, match=r"weights of another net: \d+ tensors are missing"):
        load_i3d_net(weights, weights_dir=checkpoint.parent)
