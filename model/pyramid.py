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
        residual: ``query``: a stream asks, the other answers (LoCo, as we read it). ``kv``: a
            stream answers what the other asks (UnAV).
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
        self.crosses, self.residual = fusion != "none", residual

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
            # Both streams of a level come from the pair of the level below.
            pair = (vision, vision_mask), (audio, audio_mask)
            vision, vision_mask = self._level(see, pair[0], pair[1])
            audio, audio_mask = self._level(hear, pair[1], pair[0])
            found.append((vision, audio, vision_mask, audio_mask))
        return found

    def _level(
        self, block: nn.Module, own: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One block; the residual always follows ``own``, so that a stream keeps its mask."""
        if not self.crosses:
            other = own
        query, keys = (own, other) if self.residual == "query" else (other, own)
        found: tuple[Tensor, Tensor] = block(query[0], keys[0], query[1], keys[1])
        return found
