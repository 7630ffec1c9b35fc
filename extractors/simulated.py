"""Features that no net made: their description, so that a store of them is like any other.

The name says all that decides them: ``simulated:96x64:1a2b3c4d5e6f`` are the widths of picture and
sound and a hash of the simulation's settings and annotations. Features of two simulations, or of a
simulation and a real backbone, therefore never share a store or a checkpoint.
"""

from __future__ import annotations

import re
from pathlib import Path

from extractors.spec import Backbone, BackboneSpec, EncoderSpec, Modality, WeightsFile
from extractors.windows import WindowGrid
from pipeline.core.errors import UsageError

PREFIX = "simulated"
MARK_LENGTH = 12
_NAME = re.compile(rf"{PREFIX}:(\d+)x(\d+):([0-9a-f]{{{MARK_LENGTH}}})")


def simulated_name(vision_dim: int, audio_dim: int, mark: str) -> str:
    """Name of the features of one simulation.

    Args:
        vision_dim: Width of picture features.
        audio_dim: Width of sound features.
        mark: `MARK_LENGTH` hexadecimal digits that stand for everything else.
    """
    return f"{PREFIX}:{vision_dim}x{audio_dim}:{mark}"


def is_simulated(name: str) -> bool:
    """Whether a backbone's name is meant to be that of a simulation."""
    return name.partition(":")[0] == PREFIX


def simulated_spec(name: str) -> BackboneSpec:
    """Description of the features of one simulation, on the grid of ONE-PEACE's features.

    Raises:
        UsageError: The name is none of `simulated_name`.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(
            f"{name!r} names no simulated features",
            hint="pipeline study makes them and fills in their name",
        )
    vision_dim, audio_dim, mark = int(found[1]), int(found[2]), found[3]
    return BackboneSpec(
        name,
        WindowGrid(),
        _encoder("vision", vision_dim, mark),
        _encoder("audio", audio_dim, mark),
    )


def refuse_simulated(
    *, device: str, threads: int | None, weights_dir: Path | None = None
) -> Backbone:
    """Stands in for loading nets, of which there are none.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        "simulated features have no encoder: a model trained on them cannot look at videos",
        hint="train on extracted features to detect events in videos",
    )


def _encoder(modality: Modality, dim: int, mark: str) -> EncoderSpec:
    weights = WeightsFile(file="none", bytes=0, sha256="", licence="CC0-1.0", source="simulation")
    return EncoderSpec(
        name=f"{PREFIX}-{modality}",
        modality=modality,
        dim=dim,
        classes=0,
        unit="window",
        preprocessing=f"simulated from annotations, settings {mark}",
        normalised=modality == "audio",
        weights=weights,
    )
