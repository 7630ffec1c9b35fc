"""What a backbone is: a frozen description from which the store's digest is made.

A backbone is a picture encoder and a sound encoder on one window grid. Preprocessing belongs to
the description, never to the caller: two stores can be compared exactly when their digests agree.

Shapes: N frames or windows in a batch, H height, W width, S sound samples, D embedding width,
K classes that the encoder itself knows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.windows import WindowGrid

Modality = Literal["vision", "audio"]
MODALITIES: tuple[Modality, Modality] = ("vision", "audio")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Where an encoder's weights come from.

    Attributes:
        file: File name.
        bytes: Exact size.
        sha256: Hash of the whole file, lower-case hexadecimal.
        licence: SPDX name.
        source: Package or address it comes from.
    """

    file: str
    bytes: int
    sha256: str
    licence: str
    source: str


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """One frozen net.

    Attributes:
        name: Public name of the net.
        modality: ``vision`` or ``audio``.
        dim: Width D of the embedding.
        classes: Number K of class scores beside the embedding; 0 for none.
        unit: What the net sees at once. A ``frame`` encoder is run once per picture sample and
            averaged over each window; a ``window`` encoder sees all samples of a window.
        preprocessing: One line that changes whenever the features would.
        normalised: Whether embeddings have unit length.
        weights: The weights file.
    """

    name: str
    modality: Modality
    dim: int
    classes: int
    unit: Literal["frame", "window"]
    preprocessing: str
    normalised: bool
    weights: WeightsFile


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """A picture encoder and a sound encoder on one grid.

    Attributes:
        name: Public name, as given to ``--backbone``.
        grid: Where the steps lie.
        vision: The picture encoder.
        audio: The sound encoder.
    """

    name: str
    grid: WindowGrid
    vision: EncoderSpec
    audio: EncoderSpec

    def to_json(self) -> dict[str, Any]:
        """The description as plain values."""
        return {
            "name": self.name,
            "grid": self.grid.to_json(),
            "vision": asdict(self.vision),
            "audio": asdict(self.audio),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BackboneSpec:
        """Inverse of `to_json`."""

        def encoder(fields: dict[str, Any]) -> EncoderSpec:
            return EncoderSpec(**{**fields, "weights": WeightsFile(**fields["weights"])})

        return cls(
            name=value["name"],
            grid=WindowGrid.from_json(value["grid"]),
            vision=encoder(value["vision"]),
            audio=encoder(value["audio"]),
        )

    @property
    def digest(self) -> str:
        """Hash of everything that decides the features: 16 hexadecimal digits."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder answers.

    Attributes:
        embeddings: (N, D) float32.
        scores: (N, K) float32 class probabilities, or None when the net knows no classes.
    """

    embeddings: NDArray[np.float32]
    scores: NDArray[np.float32] | None


class VisionEncoder(Protocol):
    """A frozen picture net."""

    spec: EncoderSpec
    class_names: tuple[str, ...]

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) at which the net wants frames of a video of this display size."""
        ...

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode RGB pictures.

        Args:
            frames: (N, H, W, 3) for ``unit="frame"``; (N, window, H, W, 3) for ``unit="window"``.
        """
        ...


class AudioEncoder(Protocol):
    """A frozen sound net; always sees whole windows."""

    spec: EncoderSpec
    class_names: tuple[str, ...]

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        """Encode mono sound in [-1, 1], (N, S) with S the samples of one window of the grid."""
        ...


@dataclass(frozen=True, slots=True)
class Backbone:
    """A loaded backbone, ready to encode.

    Attributes:
        spec: Its description.
        vision: The loaded picture encoder.
        audio: The loaded sound encoder.
    """

    spec: BackboneSpec
    vision: VisionEncoder
    audio: AudioEncoder
