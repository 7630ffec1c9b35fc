"""ONE-PEACE on the grid of UniAV's features: video branch (Kinetics-400) and audio branch.

The published features of UnAV-100 in this space come from these branches on this grid. How UniAV
made them was never published in full; this is the best known recipe. Left open by it: the public
pipeline scales pictures and resamples sound with other filters than the readers here do, so own and
published features should not be mixed.

This module holds only descriptions; torch is loaded by `OnePeaceLoader`. Half precision changes the
features a little and therefore has names of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from extractors.spec import Backbone, BackboneSpec, EncoderSpec, WeightsFile
from extractors.windows import WindowGrid

if TYPE_CHECKING:
    from extractors.onepeace_layers import OnePeaceSize

Precision = Literal["float32", "float16", "bfloat16"]

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
        "16 kHz mono, each window of 16000 samples to zero mean and unit variance, a shorter "
        "stream repeated after that, projected class token"
    ),
    normalised=True,
    weights=BASE_WEIGHTS,
    short_sound="repeat",
)

ONEPEACE = BackboneSpec(
    name="onepeace", grid=WindowGrid(), vision=ONEPEACE_VIDEO, audio=ONEPEACE_AUDIO
)


def _in_precision(spec: BackboneSpec, name: str, precision: Precision) -> BackboneSpec:
    vision, audio = (
        replace(encoder, preprocessing=f"{encoder.preprocessing}; {precision} arithmetic")
        for encoder in (spec.vision, spec.audio)
    )
    return replace(spec, name=name, vision=vision, audio=audio)


@dataclass(frozen=True)
class OnePeaceLoader:
    """Builds both encoders; see `extractors.registry.Loader`.

    Attributes:
        spec: What is built.
        precision: Type of the weights and of the arithmetic.
        size: Measures of both branches; None for those of the released model.
    """

    spec: BackboneSpec
    precision: Precision = "float32"
    size: OnePeaceSize | None = None

    def __call__(
        self, *, device: str, threads: int | None, weights_dir: Path | None = None
    ) -> Backbone:
        """Load both branches.

        Args:
            device: A torch device, or ``auto``.
            threads: CPU cores to use; None takes torch's number of threads.
            weights_dir: Folder that holds the weights; converted copies are written there too.

        Raises:
            EnvironmentFault: Weights or the device are missing on this machine, or the weights are
                damaged.
        """
        from extractors.audio.onepeace import load_onepeace_audio
        from extractors.device import select_device
        from extractors.onepeace_layers import OnePeaceSize
        from extractors.vision.onepeace import load_onepeace_video

        chosen = select_device(device)
        size = self.size or OnePeaceSize()
        return Backbone(
            self.spec,
            load_onepeace_video(
                chosen,
                spec=self.spec.vision,
                size=size,
                precision=self.precision,
                threads=threads,
                weights_dir=weights_dir,
            ),
            load_onepeace_audio(
                chosen,
                spec=self.spec.audio,
                size=size,
                samples=self.spec.grid.window_samples,
                precision=self.precision,
                threads=threads,
                weights_dir=weights_dir,
            ),
        )


ONEPEACE_LOADERS: Mapping[str, OnePeaceLoader] = {
    "onepeace": OnePeaceLoader(ONEPEACE),
    "onepeace-fp16": OnePeaceLoader(_in_precision(ONEPEACE, "onepeace-fp16", "float16"), "float16"),
    "onepeace-bf16": OnePeaceLoader(
        _in_precision(ONEPEACE, "onepeace-bf16", "bfloat16"), "bfloat16"
    ),
}
