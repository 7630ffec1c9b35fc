"""Load I3D and VGGish; what these backbones are is described in `extractors.i3d_vggish_spec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extractors.i3d_vggish_spec import I3D_VGGISH
from extractors.spec import Backbone, BackboneSpec


@dataclass(frozen=True)
class I3DVggishLoader:
    """Builds both encoders; see `extractors.registry.Loader`.

    Attributes:
        spec: What is built.
    """

    spec: BackboneSpec

    def __call__(
        self, *, device: str, threads: int | None, weights_dir: Path | None = None
    ) -> Backbone:
        """Load the nets.

        Args:
            device: A torch device, or ``auto``.
            threads: CPU cores to use; None takes torch's number of threads.
            weights_dir: Folder that holds the weights.

        Raises:
            EnvironmentFault: Weights or the device are missing on this machine, or the weights are
                damaged or those of another net.
        """
        from extractors.audio.vggish import load_vggish
        from extractors.device import select_device
        from extractors.vision.i3d import load_i3d

        chosen, grid = select_device(device), self.spec.grid
        return Backbone(
            self.spec,
            load_i3d(
                chosen, spec=self.spec.vision, grid=grid, threads=threads, weights_dir=weights_dir
            ),
            load_vggish(
                chosen,
                name=self.spec.audio.name,
                weights=self.spec.audio.weights,
                grid=grid,
                threads=threads,
                weights_dir=weights_dir,
            ),
        )


I3D_VGGISH_LOADERS: Mapping[str, I3DVggishLoader] = {
    name: I3DVggishLoader(spec) for name, spec in I3D_VGGISH.items()
}
