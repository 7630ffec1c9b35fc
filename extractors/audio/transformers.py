"""Sound nets of ``transformers``, behind their own feature extractors.

Each window is prepared by itself, by the model's own feature extractor: what it does about sound
that is shorter than it expects (CLAP repeats it, AST appends silence) is what happens to a second
of sound. A net of another rate than the grid's gets each window resampled.

Shapes: N windows, S samples of a window on the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.audio.torchaudio_shim import import_torchaudio
from extractors.hf.model import HfModel
from extractors.hf.net import load_encoder, pool
from extractors.runner import Runner
from extractors.spec import Encoded
from extractors.windows import WindowGrid

# A filter of 64 zero crossings instead of torchaudio's 6, as librosa's "kaiser_best" has it.
RESAMPLING: dict[str, Any] = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}


class HfAudioEncoder:
    """A sound net; see `extractors.spec.AudioEncoder`.

    Args:
        net: The loaded net.
        model: What it is.
        extractor: Its feature extractor.
        grid: Where windows lie.
        device: Where the net is.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        net: nn.Module,
        model: HfModel,
        extractor: Any,
        *,
        grid: WindowGrid,
        device: torch.device,
        threads: int | None = None,
    ) -> None:
        self.spec = model.spec
        self._net = net
        self._family = model.family
        self._extractor = extractor
        self._samples = grid.window_samples
        self._rate = model.sample_rate
        self._resample = _resampler(grid.sample_rate, model.sample_rate)
        self._run = Runner(
            self._forward,
            device=device,
            threads=threads,
            cpu_chunk=4,
            device_chunk=64,
            prepare=self._prepare,
        )

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        """Encode (N, S) mono sound; S may be less for a net that repeats short sound."""
        repeats = self.spec.short_sound == "repeat"
        least = 1 if repeats else self._samples
        if windows.ndim != 2 or not least <= windows.shape[1] <= self._samples:
            wanted = f"1 to {self._samples}" if repeats else str(self._samples)
            raise ValueError(f"windows must be (N, {wanted}), got {windows.shape}")
        (embeddings,) = self._run(windows)
        return Encoded(embeddings, None)

    def _prepare(self, windows: Tensor) -> dict[str, Tensor]:
        """What the net is given of (N, S) sound, on the CPU."""
        sound = self._resample(windows).numpy()
        inputs = self._extractor(list(sound), sampling_rate=self._rate, return_tensors="pt")
        if "is_longer" in inputs:
            # The extractor of CLAP's fusion models calls a random item of the batch longer when
            # none is; a window never is.
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in inputs.items()
        }

    def _forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        vectors = pool(self._net(**inputs), self._family)
        return (F.normalize(vectors, dim=-1) if self.spec.normalised else vectors,)


def load_hf_audio(
    model: HfModel, device: torch.device, *, grid: WindowGrid, threads: int | None = None
) -> HfAudioEncoder:
    """Load a sound net and its feature extractor.

    Args:
        model: What it is and where it lies.
        device: Where it runs.
        grid: Where windows lie.
        threads: CPU cores to use; None takes torch's number of threads.

    Raises:
        EnvironmentFault: The package ``transformers`` is missing, or the model's files are damaged
            or do not belong together.
    """
    extractor, net = load_encoder(model, "feature extractor", "AutoFeatureExtractor", device=device)
    return HfAudioEncoder(net, model, extractor, grid=grid, device=device, threads=threads)


class _InDouble(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, windows: Tensor) -> Tensor:
        resampled: Tensor = self.inner(windows.double())
        return resampled


def _resampler(rate: int, wanted: int) -> nn.Module:
    """From (N, S) at one rate to another; nothing where they are the same.

    In double precision: above half the old rate there is nothing but rounding, which the logarithm
    of a mel would make loud, and different with the batch.
    """
    if rate == wanted:
        return nn.Identity()
    import_torchaudio()
    from torchaudio.transforms import Resample

    return _InDouble(Resample(rate, wanted, **RESAMPLING, dtype=torch.float64))
