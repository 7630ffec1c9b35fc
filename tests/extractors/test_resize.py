"""Pictures are scaled as Pillow scales them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from extractors.vision.resize import resize_and_crop, scaled_size


def picture(width: int, height: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "sha256"),
    [
        ((320, 240), "9f2fcd702f9458109ab6c5b7c1bf83d8d7483120010abb666b6336249444505f"),
        ((1280, 720), "1fe217bd6d9eaf37ab5e7314b7fd44ebe300e5a22a94be8c05d9163fd8cda150"),
        ((77, 100), "aac006cfb0c1df4d0e23d7101a1c2367d9af992ce4f6b00bd981fba34f11e981"),
        ((257, 300), "444267d892a9a5793a73387acb2f8009314bb66a651bf57face36f11b623edd5"),
    ],
)
def test_bytes_equal_pillows(size: tuple[int, int], sha256: str) -> None:
    """Hashes of what Pillow's bilinear resize makes of the same pictures."""
    scaled = resize_and_crop(picture(*size), shorter_side=256)
    assert hashlib.sha256(scaled.tobytes()).hexdigest() == sha256


def test_pillow_agrees_where_it_is_installed() -> None:
    image = pytest.importorskip("PIL.Image")
    for width, height in ((640, 360), (333, 222), (100, 77), (900, 1600)):
        frames = picture(width, height)
        size = scaled_size(width, height, 256)
        theirs = [np.asarray(image.fromarray(f).resize(size, image.BILINEAR)) for f in frames]
        np.testing.assert_array_equal(resize_and_crop(frames, shorter_side=256), np.stack(theirs))


@pytest.mark.parametrize("size", [(640, 360), (360, 641), (256, 300), (300, 256), (224, 224)])
def test_a_crop_is_the_middle_of_the_scaled_picture(size: tuple[int, int]) -> None:
    whole = resize_and_crop(picture(*size), shorter_side=256)
    top, left = ((side - 224) // 2 for side in whole.shape[1:3])
    cropped = resize_and_crop(picture(*size), shorter_side=256, crop=224)
    np.testing.assert_array_equal(cropped, whole[:, top : top + 224, left : left + 224])


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((1920, 1080), (455, 256)),
        ((1080, 1920), (256, 455)),
        ((320, 240), (341, 256)),
        ((256, 999), (256, 999)),
        ((100, 100), (256, 256)),
    ],
)
def test_the_other_side_is_rounded_down(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert scaled_size(*size, 256) == scaled


def test_a_crop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="crop=300 is larger than shorter_side=256"):
        resize_and_crop(picture(320, 240), shorter_side=256, crop=300)
