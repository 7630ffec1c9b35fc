"""The cross-modal pyramid: at each level, each stream looks at the other in windows.

Shapes: B videos, C channels, T steps, T_l = T / 2^l.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.attention import Block
from model.mixing import GlobalAttention, local_attention
from model.perception import DynamicPerception

FUSIONS = ("dynamic", "fixed", "global", "none")


def make_mixer(
    fusion: str, *, channels: int, heads: int, window: int, band: str, adaptation: str
) -> nn.Module:
    """The attention of a level: which keys a query may see."""
    if fusion == "dynamic":
        return DynamicPerception(channels, heads, window, band=band, adaptation=adaptation)
    if fusion in ("fixed", "none"):
        return local_attention(window, band)
    if fusion == "global":
        return GlobalAttention()
    raise ValueError(f"unknown fusion {fusion!r}: use one of {FUSIONS}")


class Pyramid(nn.Module):
    """L levels; the first at full rate, each further one at half the rate of the one below.

    Args:
        channels: C.
        levels: L.
        heads: Attention heads.
        window: Base window W in steps of the level.
        fusion: ``dynamic`` (LoCo), ``fixed`` windows, ``global`` attention, or ``none``: each
            stream looks at itself, in fixed windows.
        residual: ``query`` or ``kv``.
        band: Reach of the local attention; see `model.mixing.local_attention`.
        adaptation: What dynamic windows are chosen from; see `model.perception.DynamicPerception`.
        drop_path: Probability.
    """

    def __init__(
        self,
        channels: int,
        *,
        levels: int,
        heads: int,
        window: int,
        fusion: str,
        residual: str,
        drop_path: float,
        band: str = "half",
        adaptation: str = "kv",
    ) -> None:
        super().__init__()
        self.crosses = fusion != "none"

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(
                    channels,
                    heads,
                    make_mixer(
                        fusion,
                        channels=channels,
                        heads=heads,
                        window=window,
                        band=band,
                        adaptation=adaptation,
                    ),
                    stride=1 if level == 0 else 2,
                    drop_path=drop_path,
                    residual=residual,
                )
                for level in range(levels)
            )

        self.vision, self.audio = blocks(), blocks()

    def forward(
        self,
        vision: Tensor,
        audio: Tensor,
        vision_mask: Tensor,
        audio_mask: Tensor,
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(B, C, T) streams and (B, 1, T) masks in; both streams and masks of each level out."""
        found = []
        for see, hear in zip(self.vision, self.audio, strict=True):
            seen = (audio, audio_mask) if self.crosses else (vision, vision_mask)
            heard = (vision, vision_mask) if self.crosses else (audio, audio_mask)
            next_vision = see(vision, seen[0], vision_mask, seen[1])
            next_audio = hear(audio, heard[0], audio_mask, heard[1])
            (vision, vision_mask), (audio, audio_mask) = next_vision, next_audio
            found.append((vision, audio, vision_mask, audio_mask))
        return found
