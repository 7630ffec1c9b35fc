"""Features of any other origin, imported from plain arrays: the name says all that is known.

``imported:clip-clap:512x256:16-16-4`` are features that their owner calls ``clip-clap``, 512 and
256 values wide, at 16 fps with windows of 16 frames every 4. What else decided them is the owner's
knowledge; who imports other features under the same name mixes them.
"""

from __future__ import annotations

import re
from fractions import Fraction

from extractors.spec import BackboneSpec, EncoderSpec, Modality, WeightsFile
from extractors.windows import WindowGrid
from pipeline.core.errors import UsageError

PREFIX = "imported"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_NAME = re.compile(
    rf"{PREFIX}:(?P<label>{_LABEL}):(?P<vision>[1-9]\d*)x(?P<audio>[1-9]\d*)"
    r":(?P<fps>[1-9]\d*(?:/[1-9]\d*)?)-(?P<window>[1-9]\d*)-(?P<stride>[1-9]\d*)"
)


def plain_grid(fps: Fraction, window: int, stride: int) -> WindowGrid:
    """A grid for features of which no sound will be read: any rate is allowed.

    Raises:
        UsageError: A value is not positive.
    """
    if fps <= 0 or window < 1 or stride < 1:
        raise UsageError(
            f"a grid of {fps} fps, window {window}, stride {stride} is impossible",
            hint="all three are above 0",
        )
    try:
        return WindowGrid(fps=fps, window=window, stride=stride)
    except ValueError:  # the usual 16 kHz does not divide: take a rate that does
        return WindowGrid(fps=fps, window=window, stride=stride, sample_rate=fps.numerator)


def imported_name(label: str, *, vision_dim: int, audio_dim: int, grid: WindowGrid) -> str:
    """Name of imported features.

    Args:
        label: What their owner calls them.
        vision_dim: Width of picture features.
        audio_dim: Width of sound features.
        grid: Where their steps lie.

    Raises:
        UsageError: The label holds other characters than letters, digits and ``._+-``.
    """
    if not re.fullmatch(_LABEL, label):
        raise UsageError(
            f"{label!r} cannot name features", hint="use letters, digits and the signs . _ + -"
        )
    dims = f"{vision_dim}x{audio_dim}"
    return f"{PREFIX}:{label}:{dims}:{Fraction(grid.fps)}-{grid.window}-{grid.stride}"


def is_imported(name: str) -> bool:
    """Whether a backbone's name is meant to be that of imported features."""
    return name.partition(":")[0] == PREFIX


def imported_spec(name: str) -> BackboneSpec:
    """Description of imported features.

    Raises:
        UsageError: The name is none of `imported_name`.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(
            f"{name!r} names no imported features",
            hint="the form is imported:LABEL:VISIONxAUDIO:FPS-WINDOW-STRIDE, as pipeline features "
            "show prints it",
        )
    grid = plain_grid(Fraction(found["fps"]), int(found["window"]), int(found["stride"]))
    return BackboneSpec(
        name,
        grid,
        _encoder("vision", int(found["vision"]), found["label"]),
        _encoder("audio", int(found["audio"]), found["label"]),
    )


def _encoder(modality: Modality, dim: int, label: str) -> EncoderSpec:
    weights = WeightsFile(file="none", bytes=0, sha256="", licence="not stated", source="imported")
    return EncoderSpec(
        name=f"{PREFIX}-{modality}",
        modality=modality,
        dim=dim,
        classes=0,
        unit="window",
        preprocessing=f"imported as {label}",
        normalised=False,
        weights=weights,
    )
