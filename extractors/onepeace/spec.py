"""ONE-PEACE: video branch (Kinetics-400) and audio branch, on UniAV's grid or another.

The published features of UnAV-100 in this space come from these branches, on the project's own
grid. How UniAV made them was never published in full; this is the best known recipe, down to the
filters that sound is resampled and pictures are scaled with. Nobody has reproduced the published
arrays, so own and published features should not be mixed.

The video branch takes 16 frames. Of a longer window, as on UnAV-100's own grid, it is given 16 that
are spread evenly (`extractors.windows.even_frames`); nothing is published on this net and such
windows. The audio branch's public interface repeats what is shorter than a second: so it does with
a shorter window, after having normalised it.

``onepeace-image`` has the image branch in the video branch's place: pictures and sound then lie in
one space. It is what ONE-PEACE's authors advise for videos where nothing is fine-tuned: the mean of
the frames' embeddings.

``onepeace-vision`` has in that place what ``one-peace-vision.pkl`` holds: the image branch as its
publishers cut it out for vision tasks, without the weights of the last norm and without the
projection. The norm is then what it is before training, and pictures lie in a space of their own.

This module holds only descriptions, which both the nets and their loader read. Half precision
changes the features a little and therefore has names of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from extractors.grids import OWN_GRID
from extractors.media.resampling import KAISER_BEST_WORDS
from extractors.spec import BackboneSpec, EncoderSpec, WeightsFile
from extractors.windows import WindowGrid

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class OnePeaceSize:
    """Measures of a branch. The defaults are those of the released model.

    Attributes:
        dim: Width D.
        heads: Attention heads H.
        ffn: Width inside the feed-forward part.
        layers: Number of layers.
        position_tables: Tables of relative positions: 1 that all layers share, or one a layer.
        patch_channels: Channels of the first convolutions over a picture.
        image_side: Height and width of a picture in pixels; a patch has 16.
        frames: Pictures of a video window.
        adapter: Width inside the adapters of the video branch.
        sound_channels: Channels of the convolutions over a waveform.
        sound_buckets: Distances, in tokens of sound, that are told apart on each side.
        vocabulary: Different tokens of a text.
        text_tokens: Tokens of a text at most, the class token among them.
        text_buckets: Like ``sound_buckets``, of a text.
    """

    dim: int = 1536
    heads: int = 24
    ffn: int = 6144
    layers: int = 40
    position_tables: int = 1
    patch_channels: int = 384
    image_side: int = 256
    frames: int = 16
    adapter: int = 384
    sound_channels: int = 512
    sound_buckets: int = 512
    vocabulary: int = 50_264
    text_tokens: int = 514
    text_buckets: int = 256


RELEASED_SIZE = OnePeaceSize()
HOST = "https://one-peace-shanghai.oss-accelerate.aliyuncs.com"

# No hash and no exact size of these files is published; the sizes are those of the tensors inside.
K400_WEIGHTS = WeightsFile(
    file="onepeace_video_k400.pth",
    bytes=0,
    sha256="",
    licence="Apache-2.0",
    source=f"{HOST}/one_peace_checkpoints/onepeace_video_k400.pth",
    about_bytes=6_628_527_048,
)
BASE_WEIGHTS = WeightsFile(
    file="one-peace.pt",
    bytes=0,
    sha256="",
    licence="Apache-2.0",
    source="http://one-peace-shanghai.oss-accelerate.aliyuncs.com/one-peace.pt",
    about_bytes=15_538_962_180,
)
VISION_WEIGHTS = WeightsFile(
    file="one-peace-vision.pkl",
    bytes=0,
    sha256="",
    licence="Apache-2.0",
    source=f"{HOST}/one_peace_checkpoints/one-peace-vision.pkl",
    about_bytes=6_058_806_672,
)

LEAST_SAMPLES = 16_000  # of sound, which shorter windows are repeated to: a second


def onepeace_spec(grid: WindowGrid, *, name: str = "onepeace") -> BackboneSpec:
    """Both branches on a grid.

    Args:
        grid: Where windows lie.
        name: Of the backbone.

    Raises:
        ValueError: A window has less than 16 frames.
    """
    frames, samples = RELEASED_SIZE.frames, grid.window_samples
    if grid.window < frames:
        raise ValueError(f"ONE-PEACE takes {frames} frames, a window has {grid.window}")
    seen = f"{frames} consecutive frames"
    if grid.window > frames:
        seen = f"{frames} frames spread evenly over the {grid.window} of a window"
    after = "a shorter stream repeated after that"
    if samples < LEAST_SAMPLES:
        after = f"repeated to {LEAST_SAMPLES} after that"
    vision = EncoderSpec(
        name="onepeace-video-k400",
        modality="vision",
        dim=1536,
        classes=0,
        unit="window",
        preprocessing=(
            f"{seen}, shorter side scaled to 256 as OpenCV does (bilinear, not antialiased, the "
            "other side rounded), middle 256x256, RGB, (x - [122.771, 116.746, 104.094]) / "
            "[68.5, 66.632, 70.323], mean over frames of the class token"
        ),
        normalised=False,
        weights=K400_WEIGHTS,
    )
    audio = EncoderSpec(
        name="onepeace-audio",
        modality="audio",
        dim=1536,
        classes=0,
        unit="window",
        preprocessing=(
            f"16 kHz mono, {KAISER_BEST_WORDS}, each window of {samples} samples to zero mean and "
            f"unit variance, {after}, projected class token"
        ),
        normalised=True,
        weights=BASE_WEIGHTS,
        short_sound="repeat",
    )
    return BackboneSpec(name=name, grid=grid, vision=vision, audio=audio)


# As the public interface prepares a picture.
_SQUARE = (
    "whole picture scaled to 256x256 as Pillow does (bicubic, antialiased, columns first; the "
    "aspect is not kept), RGB, 0 .. 1, (x - [0.48145466, 0.4578275, 0.40821073]) / "
    "[0.26862954, 0.26130258, 0.27577711]"
)
ONEPEACE_IMAGE = EncoderSpec(
    name="onepeace-image",
    modality="vision",
    dim=1536,
    classes=0,
    unit="frame",
    preprocessing=f"{_SQUARE}, projected class token of unit length",
    normalised=False,  # a mean of unit vectors is shorter
    weights=BASE_WEIGHTS,
)


def onepeace_image_spec(grid: WindowGrid, *, name: str = "onepeace-image") -> BackboneSpec:
    """Image branch and audio branch on a grid.

    Args:
        grid: Where windows lie.
        name: Of the backbone.
    """
    return replace(onepeace_spec(grid, name=name), vision=ONEPEACE_IMAGE)


ONEPEACE_VISION = replace(
    ONEPEACE_IMAGE,
    name="onepeace-vision",
    preprocessing=f"{_SQUARE}, class token behind a norm without scale and shift",
    weights=VISION_WEIGHTS,
)


def onepeace_vision_spec(grid: WindowGrid, *, name: str = "onepeace-vision") -> BackboneSpec:
    """What ``one-peace-vision.pkl`` holds, and the audio branch, on a grid.

    Args:
        grid: Where windows lie.
        name: Of the backbone.
    """
    return replace(onepeace_spec(grid, name=name), vision=ONEPEACE_VISION)


ONEPEACE = onepeace_spec(OWN_GRID)
ONEPEACE_VIDEO, ONEPEACE_AUDIO = ONEPEACE.vision, ONEPEACE.audio


def in_precision(spec: BackboneSpec, name: str, precision: Precision) -> BackboneSpec:
    """The same nets in other arithmetic, which is another backbone.

    Args:
        spec: The backbone.
        name: Of the other one.
        precision: Type of its weights and of the arithmetic.
    """
    vision, audio = (
        replace(encoder, preprocessing=f"{encoder.preprocessing}; {precision} arithmetic")
        for encoder in (spec.vision, spec.audio)
    )
    return replace(spec, name=name, vision=vision, audio=audio)
