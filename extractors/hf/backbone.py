"""Load ``hf:<vision>+<audio>``; what such a name means is read by `extractors.hf.model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extractors.hf.model import (
    find_hf_models,
    spec_of,
)
from extractors.spec import Backbone


@dataclass(frozen=True)
class HfLoader:
    """Builds both encoders; see `extractors.registry.Loader`.

    Attributes:
        name: The backbone's name.
    """

    name: str

    def __call__(
        self, *, device: str, threads: int | None, weights_dir: Path | None = None
    ) -> Backbone:
        """Load both models.

        Args:
            device: A torch device, or ``auto``.
            threads: CPU cores to use; None takes torch's number of threads.
            weights_dir: Folder in which models are looked for first.

        Raises:
            UsageError: A model is no encoder of its modality.
            EnvironmentFault: A model, the device or the package ``transformers`` is missing on
                this machine, or a model's files do not belong together.
        """
        models = find_hf_models(self.name, weights_dir=weights_dir)
        spec = spec_of(self.name, models)

        from extractors.audio.transformers import load_hf_audio
        from extractors.device import select_device
        from extractors.vision.transformers import load_hf_vision

        chosen = select_device(device)
        return Backbone(
            spec,
            load_hf_vision(models["vision"], chosen, grid=spec.grid, threads=threads),
            load_hf_audio(models["audio"], chosen, grid=spec.grid, threads=threads),
        )
