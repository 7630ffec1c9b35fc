"""Load the embedded default; what it is is described in `extractors.lite_spec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extractors.lite_spec import LITE_ON_GRIDS
from extractors.spec import Backbone, BackboneSpec


@dataclass(frozen=True)
class LiteLoader:
    """Builds both encoders; see `extractors.registry.Loader`.

    Attributes:
        spec: What is built.
    """

    spec: BackboneSpec

    def __call__(
        self, *, device: str, threads: int | None, weights_dir: Path | None = None
    ) -> Backbone:
        """Load both nets.

        Args:
            device: A torch device, or ``auto``.
            threads: CPU cores to use; None takes torch's number of threads.
            weights_dir: Folder in which weights are looked for first.

        Raises:
            EnvironmentFault: Weights or the device are missing on this machine, or the weights are
                damaged.
        """
        from extractors.audio.yamnet import load_yamnet
        from extractors.device import select_device
        from extractors.vision.efficientnet import load_efficientnet_lite0

        chosen = select_device(device)
        return Backbone(
            self.spec,
            load_efficientnet_lite0(chosen, threads=threads, weights_dir=weights_dir),
            load_yamnet(
                chosen,
                spec=self.spec.audio,
                grid=self.spec.grid,
                threads=threads,
                weights_dir=weights_dir,
            ),
        )


LITE_LOADERS: Mapping[str, LiteLoader] = {
    name: LiteLoader(spec) for name, spec in LITE_ON_GRIDS.items()
}
