"""The kit of real sounds and pictures: what the nets say of each, by category.

Shapes: T steps, K classes of a net, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.spec import Backbone
from pipeline.core.errors import NothingMatchedError

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kit:
    """What the nets say of the kit, by category.

    Attributes:
        sounds: Class scores (T, K) of each sound.
        pictures: Class scores (K,) of each picture.
        sound_embeddings: (T, D) of each sound; needed by the method ``clasp`` alone.
        picture_embeddings: (D,) of each picture, likewise.
    """

    sounds: Mapping[str, Sequence[Floats]]
    pictures: Mapping[str, Sequence[Floats]]
    sound_embeddings: Mapping[str, Sequence[Floats]] = field(default_factory=dict)
    picture_embeddings: Mapping[str, Sequence[Floats]] = field(default_factory=dict)


def load_kit(folder: Path, backbone: Backbone) -> Kit:
    """Encode every sound and picture of the kit."""
    heard = {
        path.name: [_encode_sound(file, backbone) for file in sorted(path.iterdir())]
        for path in _folders(folder / "audio")
    }
    seen = {
        path.name: [_encode_picture(file, backbone) for file in sorted(path.iterdir())]
        for path in _folders(folder / "images")
    }
    sounds, pictures = _each(heard, 0), _each(seen, 0)
    if not sounds or not pictures:
        raise NothingMatchedError(
            f"{folder} holds no sounds or no pictures",
            hint="give a folder with audio/CATEGORY/* and images/CATEGORY/*",
        )
    return Kit(sounds, pictures, _each(heard, 1), _each(seen, 1))


def _each(pairs: Mapping[str, Sequence[tuple[Floats, Floats]]], place: int) -> dict[str, Any]:
    """Of every entry of every category the score (place 0) or the embedding (1)."""
    return {name: [pair[place] for pair in entries] for name, entries in pairs.items()}


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir()) if path.is_dir() else []


def _encode_sound(file: Path, backbone: Backbone) -> tuple[Floats, Floats]:
    """Scores (T, K) and embeddings (T, D) of the whole windows of a sound.

    Of one padded window if it is shorter.
    """
    grid = backbone.spec.grid
    with open_audio(probe(file), sample_rate=grid.sample_rate) as reader:
        samples = np.concatenate(list(reader))
    samples = np.pad(samples, (0, max(0, grid.window_samples - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(samples, grid.window_samples)
    said = backbone.audio.embed(np.ascontiguousarray(windows[:: grid.stride_samples]))
    assert said.scores is not None
    return said.scores, said.embeddings


def _encode_picture(file: Path, backbone: Backbone) -> tuple[Floats, Floats]:
    """Scores (K,) and embedding (D,) of a picture, scaled up to what the net wants."""
    with av.open(str(file)) as container:
        frame = next(container.decode(video=0))
    width, height = backbone.vision.frame_size(frame.width, frame.height)
    pixels = frame.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray()
    said = backbone.vision.embed(pixels[None])
    assert said.scores is not None
    return said.scores[0], said.embeddings[0]
