"""Load ONE-PEACE's backbones; what they are is described in `extractors.onepeace.spec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extractors.onepeace.spec import (
    ONEPEACE,
    RELEASED_SIZE,
    OnePeaceSize,
    Precision,
    in_precision,
)
from extractors.spec import Backbone, BackboneSpec


@dataclass(frozen=True)
class OnePeaceLoader:
    """Builds both encoders; see `extractors.registry.Loader`.

    Attributes:
        spec: What is built.
        precision: Type of the weights and of the arithmetic.
        size: Measures of both branches.
    """

    spec: BackboneSpec
    precision: Precision = "float32"
    size: OnePeaceSize = RELEASED_SIZE

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
        from extractors.vision.onepeace import load_onepeace_video

        chosen = select_device(device)
        return Backbone(
            self.spec,
            load_onepeace_video(
                chosen,
                spec=self.spec.vision,
                size=self.size,
                precision=self.precision,
                threads=threads,
                weights_dir=weights_dir,
            ),
            load_onepeace_audio(
                chosen,
                spec=self.spec.audio,
                size=self.size,
                samples=self.spec.grid.window_samples,
                precision=self.precision,
                threads=threads,
                weights_dir=weights_dir,
            ),
        )


ONEPEACE_LOADERS: Mapping[str, OnePeaceLoader] = {
    "onepeace": OnePeaceLoader(ONEPEACE),
    "onepeace-fp16": OnePeaceLoader(in_precision(ONEPEACE, "onepeace-fp16", "float16"), "float16"),
    "onepeace-bf16": OnePeaceLoader(
        in_precision(ONEPEACE, "onepeace-bf16", "bfloat16"), "bfloat16"
    ),
}
