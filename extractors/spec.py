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
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from extractors.grids import split_name
from extractors.windows import WindowGrid

Modality = Literal["vision", "audio"]
MODALITIES: tuple[Modality, Modality] = ("vision", "audio")
HF_PREFIX = "hf:"  # begins the names of backbones that are told apart by content, not by name


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Where an encoder's weights come from, and what is known of the file.

    Attributes:
        file: File name.
        bytes: Exact size; 0 where nobody published it.
        sha256: Hash of the whole file, lower-case hexadecimal; only its beginning where no more is
            published, "" where nothing is.
        licence: SPDX name.
        source: Package or address it comes from.
        git_blob: Id that git gives the file's content; "" where it is not known.
        about_bytes: Size to expect where the exact one is not published; for messages only.
    """

    file: str
    bytes: int
    sha256: str
    licence: str
    source: str
    git_blob: str = ""
    about_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is known as plain values; the optional ones only where they are set."""
        values = asdict(self)
        for name in ("git_blob", "about_bytes"):
            if not values[name]:
                del values[name]
        return values


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
        short_sound: What becomes of a sound stream that is shorter than one window. ``silence``
            follows it to the end of the window, or the encoder is handed what there is, and
            ``repeat``s it.
        overhang: Frames or sound samples past the window that the net sees, too.
        more_weights: Further weights files, of an encoder that is several nets.
    """

    name: str
    modality: Modality
    dim: int
    classes: int
    unit: Literal["frame", "window"]
    preprocessing: str
    normalised: bool
    weights: WeightsFile
    short_sound: Literal["silence", "repeat"] = "silence"
    overhang: int = 0
    more_weights: tuple[WeightsFile, ...] = ()

    @property
    def files(self) -> tuple[WeightsFile, ...]:
        """All its weights files."""
        return self.weights, *self.more_weights

    def to_json(self) -> dict[str, Any]:
        """The description as plain values; later fields only where they are not the default."""
        values = {**asdict(self), "weights": self.weights.to_json()}
        if self.short_sound == "silence":
            del values["short_sound"]
        if not self.overhang:
            del values["overhang"]
        del values["more_weights"]
        if self.more_weights:
            values["more_weights"] = [weights.to_json() for weights in self.more_weights]
        return values

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EncoderSpec:
        """Inverse of `to_json`."""
        more = tuple(WeightsFile(**weights) for weights in value.get("more_weights", ()))
        return cls(**{**value, "weights": WeightsFile(**value["weights"]), "more_weights": more})


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """A picture encoder and a sound encoder on one grid.

    Attributes:
        name: Public name, as given to ``--backbone``; it says the grid, too (`extractors.grids`).
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
            "vision": self.vision.to_json(),
            "audio": self.audio.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BackboneSpec:
        """Inverse of `to_json`."""
        return cls(
            name=value["name"],
            grid=WindowGrid.from_json(value["grid"]),
            vision=EncoderSpec.from_json(value["vision"]),
            audio=EncoderSpec.from_json(value["audio"]),
        )

    @property
    def digest(self) -> str:
        """Hash of everything that decides the features: 16 hexadecimal digits."""
        canonical = json.dumps(self._identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        """What the digest is made from: where models of a user lie is no part of what they are."""
        values = self.to_json()
        if split_name(self.name)[1].startswith(HF_PREFIX):
            del values["name"]
            for modality in MODALITIES:
                encoder = values[modality]
                for weights in (encoder["weights"], *encoder.get("more_weights", ())):
                    del weights["source"]
        return values


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
            frames: (N, H, W, 3) for ``unit="frame"``; (N, window + overhang, H, W, 3) for
                ``unit="window"``.
        """
        ...


@runtime_checkable
class FramePreparer(Protocol):
    """A picture net that scales or cuts frames itself, as soon as they are decoded.

    That happens in a thread of its own (`extractors.ahead`), while the net is at work.
    """

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, H, W, 3) frames of a `frame_size` to what is kept of them and given to the net."""
        ...


@runtime_checkable
class StretchEncoder(Protocol):
    """A net that sees whole windows, and shares what overlapping ones have in common."""

    def embed_stretch(self, samples: NDArray[Any], count: int) -> Encoded:
        """What ``embed`` answers for ``count`` windows that follow each other on the grid.

        Args:
            samples: Frames or sound from the first to the last of what these windows see.
            count: Number of windows; each begins a stride of the grid after the one before.
        """
        ...


class AudioEncoder(Protocol):
    """A frozen sound net; always sees whole windows."""

    spec: EncoderSpec
    class_names: tuple[str, ...]

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        """Encode mono sound in [-1, 1], (N, S) with S the samples of one window, plus overhang.

        S is less for a stream that is shorter than a window, with ``short_sound="repeat"``.
        """
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
