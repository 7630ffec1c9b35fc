"""Pictures are scaled as OpenCV scales them, to the sizes and squares of mmaction2."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from extractors.vision.resize_opencv import (
    resize_linear,
    resize_linear_and_crop,
    rounded_size,
)

SIDE = 256
SIZES = [
    (320, 240),  # larger
    (1280, 720),
    (1920, 1080),
    (720, 1280),
    (640, 512),  # exactly half
    (640, 359),
    (257, 300),
    (300, 256),  # only cut
    (77, 100),
]


@pytest.fixture(scope="module")
def reference(golden: Path) -> Mapping[str, np.ndarray]:
    return dict(np.load(golden / "backbones/opencv_linear.npz"))


def picture(width: int, height: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (2, height, width, 3), dtype=np.uint8)


def sha256(pictures: np.ndarray) -> str:
    return hashlib.sha256(pictures.tobytes()).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_equal_opencvs(size: tuple[int, int], reference: Mapping[str, np.ndarray]) -> None:
    scaled = resize_linear(picture(*size), *rounded_size(*size, SIDE))
    width, height = size
    # Some of the pixels, which say how far off it is, and the hash of all.
    np.testing.assert_array_equal(scaled[0, ::32, ::32], reference[f"{width}x{height}/some"])
    assert sha256(scaled) == reference[f"{width}x{height}/sha256"]


@pytest.mark.parametrize("size", SIZES)
def test_the_middle_square_equals_that_of_the_public_pipeline(
    size: tuple[int, int], reference: Mapping[str, np.ndarray]
) -> None:
    square = resize_linear_and_crop(picture(*size), side=SIDE)
    assert square.shape == (2, SIDE, SIDE, 3)
    assert sha256(square) == reference["{}x{}/square_sha256".format(*size)]


def test_opencv_agrees_where_it_is_installed() -> None:
    cv2 = pytest.importorskip("cv2")
    sizes = np.random.RandomState(1).randint(1, 500, (60, 4)).tolist()
    for width, height, *new in [*sizes, [1, 1, 7, 5], [900, 31, 256, 256], [512, 200, 256, 100]]:
        frames = picture(width, height)
        theirs = [cv2.resize(frame, new, interpolation=cv2.INTER_LINEAR) for frame in frames]
        np.testing.assert_array_equal(resize_linear(frames, *new), theirs)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((1920, 1080), (455, 256)),
        ((1080, 1920), (256, 455)),
        ((640, 359), (456, 256)),
        ((640, 360), (455, 256)),
        ((512, 511), (257, 256)),  # 256.501
        ((64, 64), (256, 256)),
        ((256, 999), (256, 999)),
    ],
)
def test_the_other_side_is_rounded(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert rounded_size(*size, SIDE) == scaled


@pytest.mark.parametrize("size", [(90, 61), (256, 100), (40, 100)])
def test_a_part_is_the_same_as_in_the_whole(size: tuple[int, int]) -> None:
    whole = resize_linear(picture(90, 61), *size)
    rows, columns = slice(7, 50), slice(5, 33)
    part = resize_linear(picture(90, 61), *size, rows=rows, columns=columns)
    np.testing.assert_array_equal(part, whole[:, rows, columns])


def test_pixels_that_lie_between_those_next_to_a_centre_are_not_seen() -> None:
    frames = picture(128, 128)
    changed = frames.copy()
    changed[:, 0::4] = changed[:, 3::4] = 0
    changed[:, :, 0::4] = changed[:, :, 3::4] = 0
    np.testing.assert_array_equal(resize_linear(changed, 32, 32), resize_linear(frames, 32, 32))
    changed[:, 1, 1] = ~changed[:, 1, 1]
    assert (resize_linear(changed, 32, 32) != resize_linear(frames, 32, 32)).any()


def test_frames_of_one_colour_keep_it() -> None:
    for level in (0, 1, 127, 254, 255):
        frames = np.full((1, 90, 61, 3), level, np.uint8)
        assert (resize_linear(frames, 256, 33) == level).all()
