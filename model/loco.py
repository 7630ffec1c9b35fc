"""LoCo: locality-aware cross-modal correspondence learning for dense audio-visual events.

Source: arXiv 2409.07967; what the paper leaves open is reconstructed and is an argument here.

Shapes: B videos, T steps, Cv and Ca feature widths, C channels, L levels, T_l = T / 2^l,
P = sum of T_l points, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.assignment import assign
from model.attention import Block
from model.correspondence import Correspondence
from model.embedding import Embedding
from model.heads import Decoder, Heads
from model.losses import RunningNormaliser, focal_loss, interval_loss
from model.mixing import GlobalAttention
from model.points import RANGES, Points, make_points
from model.pyramid import Pyramid


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says at every point.

    Attributes:
        points: The P points, finest level first.
        lengths: T_l of each level.
        logits: (B, P, K).
        distances: (B, P, K, 2) to start and end, in strides of the point's level.
        mask: (B, P) points at which picture or sound exists.
        vision: (B, C, T) unimodal stream before the pyramid, for LCC.
        audio: (B, C, T), likewise.
        both: (B, T) steps at which picture and sound exist.
    """

    points: Points
    lengths: tuple[int, ...]
    logits: Tensor
    distances: Tensor
    mask: Tensor
    vision: Tensor
    audio: Tensor
    both: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """Terms of Eq 9, each a scalar: total = classes + intervals + lambda * correspondence."""

    total: Tensor
    classes: Tensor
    intervals: Tensor
    correspondence: Tensor


class UnimodalBlocks(nn.Module):
    """Self-attention over the whole sequence, within one modality."""

    def __init__(self, channels: int, heads: int, *, blocks: int, drop_path: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, GlobalAttention(), drop_path=drop_path) for _ in range(blocks)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, C, T) and (B, 1, T) in, (B, C, T) out."""
        for block in self.blocks:
            x, _ = block(x, x, mask, mask)
        return x


class LoCo(nn.Module):
    """The whole network.

    Args:
        vision_dim: Cv.
        audio_dim: Ca.
        classes: K.
        channels: C.
        heads: Attention heads.
        unimodal_blocks: Self-attention blocks of each stream before the pyramid.
        levels: L.
        window: Base window W of the pyramid's attention, in steps of a level.
        fusion: ``dynamic``, ``fixed``, ``global`` or ``none``.
        residual: ``query`` or ``kv``.
        decoder_channels: Width of decoder and heads.
        decoder_blocks: Light blocks after the reduction.
        drop_path: Probability of stochastic depth.
        max_seq_len: Length of the position table.
        correspondence: LCC variant, or ``none``.
        correspondence_weight: Lambda of Eq 9.
        correspondence_targets: ``raw`` or ``normalised``.
        sigma: Initial deviation of LCC, steps.
        interval: ``giou`` or ``diou``.
        normaliser: Initial count of positive points.
    """

    def __init__(
        self,
        *,
        vision_dim: int,
        audio_dim: int,
        classes: int,
        channels: int = 512,
        heads: int = 4,
        unimodal_blocks: int = 2,
        levels: int = 6,
        window: int = 8,
        fusion: str = "dynamic",
        residual: str = "query",
        decoder_channels: int = 512,
        decoder_blocks: int = 1,
        drop_path: float = 0.1,
        max_seq_len: int = 256,
        correspondence: str = "learnable",
        correspondence_weight: float = 0.1,
        correspondence_targets: str = "raw",
        sigma: float = 1.0,
        interval: str = "giou",
        normaliser: float = 250.0,
    ) -> None:
        super().__init__()
        self.classes, self.levels = classes, levels
        self.interval, self.correspondence_weight = interval, correspondence_weight
        self.embed = nn.ModuleDict(
            {
                "vision": Embedding(vision_dim, channels, max_seq_len=max_seq_len),
                "audio": Embedding(audio_dim, channels, max_seq_len=max_seq_len),
            }
        )
        self.unimodal = nn.ModuleDict(
            {
                name: UnimodalBlocks(channels, heads, blocks=unimodal_blocks, drop_path=drop_path)
                for name in ("vision", "audio")
            }
        )
        self.pyramid = Pyramid(
            channels,
            levels=levels,
            heads=heads,
            window=window,
            fusion=fusion,
            residual=residual,
            drop_path=drop_path,
        )
        self.decoder = Decoder(
            2 * channels,
            decoder_channels,
            blocks=decoder_blocks,
            heads=heads,
            radius=window // 2,
            drop_path=drop_path,
        )
        self.head = Heads(decoder_channels, classes, levels=levels)
        self.normaliser = RunningNormaliser(initial=normaliser)
        self.correspondence = (
            None
            if correspondence == "none"
            else Correspondence(
                channels, variant=correspondence, sigma=sigma, targets=correspondence_targets
            )
        )

    def forward(
        self,
        vision: Tensor,
        audio: Tensor,
        vision_mask: Tensor,
        audio_mask: Tensor,
    ) -> Prediction:
        """Predict at every point of the pyramid.

        A step that only one modality has stays a point; it finds nothing in the other.

        Args:
            vision: (B, Cv, T).
            audio: (B, Ca, T).
            vision_mask: (B, T) True where picture exists.
            audio_mask: (B, T) True where sound exists.
        """
        seen = self._stream("vision", vision, vision_mask[:, None])
        heard = self._stream("audio", audio, audio_mask[:, None])
        logits, distances, masks = [], [], []
        pyramid = self.pyramid(seen, heard, vision_mask[:, None], audio_mask[:, None])
        for level, (v, a, v_mask, a_mask) in enumerate(pyramid):
            mask = v_mask | a_mask
            fused = self.decoder(torch.cat([v, a], dim=1), mask)
            level_logits, level_distances = self.head(fused, mask, level=level)
            logits.append(level_logits)
            distances.append(level_distances)
            masks.append(mask[:, 0])
        lengths = tuple(mask.shape[1] for mask in masks)
        ranges = (*RANGES[: self.levels - 1], (RANGES[self.levels - 1][0], 10_000.0))
        return Prediction(
            points=make_points(lengths, ranges=ranges, device=vision.device),
            lengths=lengths,
            logits=torch.cat(logits, 1),
            distances=torch.cat(distances, 1),
            mask=torch.cat(masks, 1),
            vision=seen,
            audio=heard,
            both=vision_mask & audio_mask,
        )

    def _stream(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        stream: Tensor = self.unimodal[name](self.embed[name](x, mask), mask)
        return stream

    def loss(self, prediction: Prediction, segments: list[Tensor], labels: list[Tensor]) -> Losses:
        """Eq 9 for one batch.

        Args:
            prediction: Of this batch.
            segments: For each video (N, 2) start and end in steps; N may be 0.
            labels: For each video (N,) class numbers.
        """
        pairs = [
            assign(prediction.points, s, y, classes=self.classes)
            for s, y in zip(segments, labels, strict=True)
        ]
        target = torch.stack([pair[0] for pair in pairs])
        distance = torch.stack([pair[1] for pair in pairs])
        valid = prediction.mask
        positive = (target > 0) & valid[..., None]
        normaliser = self.normaliser(positive.any(-1).sum())
        classes = focal_loss(prediction.logits[valid], target[valid]).sum() / normaliser
        intervals = (
            interval_loss(
                prediction.distances[positive], distance[positive], kind=self.interval
            ).sum()
            / normaliser
        )
        correspondence = prediction.logits.new_zeros(())
        if self.correspondence is not None:
            correspondence = self.correspondence(
                prediction.vision, prediction.audio, prediction.both
            )
        total = classes + intervals + self.correspondence_weight * correspondence
        return Losses(total, classes, intervals, correspondence)
