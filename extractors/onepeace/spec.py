"""ONE-PEACE on the grid of UniAV's features: video branch (Kinetics-400) and audio branch.

The published features of UnAV-100 in this space come from these branches on this grid. How UniAV
made them was never published in full; this is the best known recipe, down to the filter that sound
is resampled with. Pictures are scaled with another filter than the public pipeline's, and nobody
has reproduced the published arrays, so own and published features should not be mixed.

This module holds only descriptions, which both the nets and their loader read. Half precision
changes the features a little and therefore has names of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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
    about_bytes=6_067_731_848,
)

ONEPEACE_VIDEO = EncoderSpec(
    name="onepeace-video-k400",
    modality="vision",
    dim=1536,
    classes=0,
    unit="window",
    preprocessing=(
        "16 consecutive frames, shorter side scaled to 256 by the reader (bilinear), middle "
        "256x256, RGB, (x - [122.771, 116.746, 104.094]) / [68.5, 66.632, 70.323], mean over "
        "frames of the class token"
    ),
    normalised=False,
    weights=K400_WEIGHTS,
)

ONEPEACE_AUDIO = EncoderSpec(
    name="onepeace-audio",
    modality="audio",
    dim=1536,
    classes=0,
    unit="window",
    preprocessing=(
        f"16 kHz mono, {KAISER_BEST_WORDS}, each window of 16000 samples to zero mean and unit "
        "variance, a shorter stream repeated after that, projected class token"
    ),
    normalised=True,
    weights=BASE_WEIGHTS,
    short_sound="repeat",
)

ONEPEACE = BackboneSpec(
    name="onepeace", grid=WindowGrid(), vision=ONEPEACE_VIDEO, audio=ONEPEACE_AUDIO
)


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
