"""Features that others computed and released: their descriptions, and why they are never our own.

The encoders of this program follow the same recipes, but nobody has reproduced the released arrays:
for ONE-PEACE's sound the best known recipe stays at a mean cosine of 0.93 to them, and for pictures
re-encoding and resizing differ. So a store of released features has a name and a digest of its own.
A model trained on it refuses features that were extracted here, and the other way round.

Sources of grids and widths: the UnAV repository (I3D and VGGish: 25 fps, 24 frames, stride 8) and
the UniAV repository (ONE-PEACE: 16 fps, 16 frames, stride 4, for ActivityNet 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

from extractors.spec import Backbone, BackboneSpec, EncoderSpec, Modality, WeightsFile
from extractors.windows import WindowGrid
from pipeline.core.errors import UsageError

_UNAV = "https://github.com/ttgeng233/UnAV"
_UNIAV = "https://github.com/ttgeng233/UniAV"

# Released features -> the encoders here that come nearest to what made them.
NEAREST: Mapping[str, str] = MappingProxyType(
    {
        "unav100-i3d-vggish": "unav-i3d-vggish",
        "unav100-onepeace": "onepeace",
        "activitynet13-onepeace": "onepeace",
    }
)


def _encoder(
    name: str, modality: Modality, dim: int, content: str, *, source: str, unit_length: bool = False
) -> EncoderSpec:
    weights = WeightsFile(file="none", bytes=0, sha256="", licence="not stated", source=source)
    return EncoderSpec(
        name=name,
        modality=modality,
        dim=dim,
        classes=0,
        unit="window",
        preprocessing=f"released: {content}",
        normalised=unit_length,
        weights=weights,
    )


def _onepeace(name: str, stride: int) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        grid=WindowGrid(fps=Fraction(16), window=16, stride=stride),
        vision=_encoder(
            f"{name}-vision",
            "vision",
            1536,
            "ONE-PEACE fine-tuned on Kinetics-400",
            source=_UNIAV,
        ),
        audio=_encoder(
            f"{name}-audio",
            "audio",
            1536,
            "ONE-PEACE audio branch",
            source=_UNIAV,
            unit_length=True,
        ),
    )


RELEASED: Mapping[str, BackboneSpec] = MappingProxyType(
    {
        "unav100-i3d-vggish": BackboneSpec(
            name="unav100-i3d-vggish",
            grid=WindowGrid(fps=Fraction(25), window=24, stride=8),
            vision=_encoder(
                "unav100-i3d-rgb-flow",
                "vision",
                2048,
                "I3D of Kinetics-400, RGB before flow",
                source=_UNAV,
            ),
            audio=_encoder("unav100-vggish", "audio", 128, "VGGish of AudioSet", source=_UNAV),
        ),
        "unav100-onepeace": _onepeace("unav100-onepeace", 4),
        "activitynet13-onepeace": _onepeace("activitynet13-onepeace", 8),
    }
)


class NoEncoder:
    """Stands in for loading the nets of features that came from elsewhere.

    Args:
        name: Name of the features.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(
        self, *, device: str, threads: int | None, weights_dir: Path | None = None
    ) -> Backbone:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        if self._name in RELEASED:
            raise UsageError(
                f"{self._name!r} are features that others released; no encoder here makes them",
                hint=f"put the released files into a store with pipeline features import --layout "
                f"{self._name}; for videos of your own use --backbone {NEAREST[self._name]} and a "
                "model that was trained on its features",
            )
        raise UsageError(
            f"{self._name!r} are features that were imported; no encoder here makes them",
            hint="import the features of other videos too, or extract with one of the backbones "
            "here and train on those",
        )
