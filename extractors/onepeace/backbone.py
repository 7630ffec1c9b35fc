"""Load ONE-PEACE's backbones; what they are is described in `extractors.onepeace.spec`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from extractors.grids import GRIDS
from extractors.onepeace.spec import (
    ONEPEACE_VIDEO,
    RELEASED_SIZE,
    OnePeaceSize,
    Precision,
    in_precision,
    onepeace_image_spec,
    onepeace_spec,
    onepeace_vision_spec,
)
from extractors.spec import Backbone, BackboneSpec, VisionEncoder

if TYPE_CHECKING:
    import torch


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

        chosen = select_device(device)
        return Backbone(
            self.spec,
            self._vision(chosen, threads, weights_dir),
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

    def _vision(
        self, device: torch.device, threads: int | None, weights_dir: Path | None
    ) -> VisionEncoder:
        if self.spec.vision.name != ONEPEACE_VIDEO.name:
            from extractors.vision.onepeace_image import load_onepeace_image_encoder

            return load_onepeace_image_encoder(
                device,
                spec=self.spec.vision,
                size=self.size,
                precision=self.precision,
                threads=threads,
                weights_dir=weights_dir,
            )
        from extractors.vision.onepeace import load_onepeace_video

        return load_onepeace_video(
            device,
            spec=self.spec.vision,
            size=self.size,
            window=self.spec.grid.window,
            precision=self.precision,
            threads=threads,
            weights_dir=weights_dir,
        )


_PRECISIONS: Mapping[str, Precision] = {"": "float32", "-fp16": "float16", "-bf16": "bfloat16"}
_PAIRS = {
    "onepeace": onepeace_spec,
    "onepeace-image": onepeace_image_spec,
    "onepeace-vision": onepeace_vision_spec,
}


def _loaders() -> Iterator[OnePeaceLoader]:
    for prefix, grid in GRIDS.items():
        for pair, describe in _PAIRS.items():
            for suffix, precision in _PRECISIONS.items():
                spec = describe(grid, name=f"{prefix}{pair}{suffix}")
                if precision != "float32":
                    spec = in_precision(spec, spec.name, precision)
                yield OnePeaceLoader(spec, precision)


ONEPEACE_LOADERS: Mapping[str, OnePeaceLoader] = {load.spec.name: load for load in _loaders()}
