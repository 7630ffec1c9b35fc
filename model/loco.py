"""LoCo: locality-aware cross-modal correspondence learning for dense audio-visual events.

Source: arXiv 2409.07967; what the paper leaves open is reconstructed and is an argument here.

Shapes: B videos, T steps, Cv and Ca feature widths, C channels, L levels, T_l = T / 2^l,
P = sum of T_l points, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.assignment import assign_batch, count_missed
from model.attention import UnimodalBlocks
from model.correspondence import LEAST_SIGMA, Correspondence
from model.doubt import Doubt, doubt_points
from model.embedding import Embedding, own_lengths
from model.heads import Decoder, Heads
from model.losses import (
    INTERVALS,
    RunningNormaliser,
    focal_loss,
    interval_loss,
    smooth_targets,
)
from model.points import Points, make_points
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
    """Terms of Eq 9, each a scalar: total = classes + intervals + lambda * correspondence.

    ``interval_weight``, 1 in the paper, multiplies the second term.

    Attributes:
        total: To be minimised.
        classes: Focal loss over the normaliser.
        intervals: IoU loss over the normaliser.
        correspondence: LCC before its weight; 0 without it.
        positives: Points of the batch that answer for an event.
        missed: Events of the batch that no valid point answers for.
    """

    total: Tensor
    classes: Tensor
    intervals: Tensor
    correspondence: Tensor
    positives: int
    missed: int

    def terms(self) -> dict[str, float]:
        """What a log says of one iteration."""
        return {
            "loss": self.total.item(),
            "classes": self.classes.item(),
            "intervals": self.intervals.item(),
            "correspondence": self.correspondence.item(),
            "missed": self.missed,
        }


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
        sigma: Initial deviation of LCC, in ``sigma_unit``.
        interval: ``giou`` or ``diou``.
        normaliser: Initial count of positive points.
        positions: ``continued`` or ``stretched`` beyond ``max_seq_len``; see `Embedding`.
        embedding_layers: Convolutions of the embedding.
        band: Reach of local attention: ``half``, ``full`` or ``window``; see `local_attention`.
        adaptation: What chooses dynamic windows: ``kv``, ``separate`` or ``query``.
        decoder_attention: ``local`` or ``global``.
        decoder_expansion: Width of its feed-forward nets over ``decoder_channels``. The paper's
            operation count leaves room for light blocks only.
        correspondence_directions: ``mean`` or ``sum`` of LCC's two directions.
        softened_scope: ``video`` or ``batch``, for the variant ``softened``.
        smoothing: Mass that ``softened`` takes from the diagonal.
        temperature: Initial temperature of LCC.
        distance_bias: Distances at the start of training, in strides; see `Heads`.
        force_nearest: Train on events that lie between all points, too; see `assign_batch`.
        class_aware: Each class has distances of its own; without, all classes of a point share
            one pair, and the point answers for its shortest event alone.
        prior: Probability of a class at a point at the start of training.
        focal_alpha: Weight of positives in the focal loss; negative for none.
        focal_gamma: Its exponent.
        label_smoothing: Share by which class targets move towards 1 / (K + 1).
        interval_weight: Of the IoU loss in the total.
        normaliser_momentum: Of the running count of positive points.
        decoder_window: The decoder's local attention looks half of it to either side; 0 takes
            ``window``.
        sigma_unit: Of LCC's deviation: ``steps`` or ``video``; see `Correspondence`.
        least_sigma: Smallest deviation of LCC, in steps.
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
        positions: str = "continued",
        embedding_layers: int = 2,
        band: str = "half",
        adaptation: str = "kv",
        decoder_attention: str = "local",
        decoder_expansion: int = 1,
        correspondence_directions: str = "mean",
        softened_scope: str = "video",
        smoothing: float = 0.1,
        temperature: float = 0.07,
        distance_bias: float = 2.0,
        force_nearest: bool = False,
        class_aware: bool = True,
        prior: float = 0.01,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        interval_weight: float = 1.0,
        normaliser_momentum: float = 0.9,
        decoder_window: int = 0,
        sigma_unit: str = "steps",
        least_sigma: float = LEAST_SIGMA,
    ) -> None:
        super().__init__()
        if interval not in INTERVALS:
            raise ValueError(f"unknown interval loss {interval!r}: use one of {INTERVALS}")
        self.classes, self.levels, self.max_seq_len = classes, levels, max_seq_len
        self.interval, self.correspondence_weight = interval, correspondence_weight
        self.force_nearest, self.class_aware = force_nearest, class_aware
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.label_smoothing, self.interval_weight = label_smoothing, interval_weight
        #: Pieces of a long sequence that start at multiples of this see the windows of the whole.
        self.alignment = window * 2 ** (levels - 1)
        self.embed = nn.ModuleDict(
            {
                name: Embedding(
                    width,
                    channels,
                    max_seq_len=max_seq_len,
                    positions=positions,
                    layers=embedding_layers,
                )
                for name, width in (("vision", vision_dim), ("audio", audio_dim))
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
            band=band,
            adaptation=adaptation,
        )
        self.decoder = Decoder(
            2 * channels,
            decoder_channels,
            blocks=decoder_blocks,
            heads=heads,
            window=decoder_window or window,
            attention=decoder_attention,
            expansion=decoder_expansion,
            drop_path=drop_path,
        )
        self.head = Heads(
            decoder_channels,
            classes,
            levels=levels,
            distance_bias=distance_bias,
            prior=prior,
            class_aware=class_aware,
        )
        self.normaliser = RunningNormaliser(initial=normaliser, momentum=normaliser_momentum)
        self.correspondence = (
            None
            if correspondence == "none"
            else Correspondence(
                channels,
                variant=correspondence,
                sigma=sigma,
                max_steps=max_seq_len,
                targets=correspondence_targets,
                smoothing=smoothing,
                scope=softened_scope,
                directions=correspondence_directions,
                temperature=temperature,
                sigma_unit=sigma_unit,
                least_sigma=least_sigma,
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
        lengths = own_lengths(vision_mask | audio_mask)
        seen = self._stream("vision", vision, vision_mask[:, None], lengths)
        heard = self._stream("audio", audio, audio_mask[:, None], lengths)
        levels = [
            (torch.cat([v, a], dim=1), v_mask | a_mask)
            for v, a, v_mask, a_mask in self.pyramid(
                seen, heard, vision_mask[:, None], audio_mask[:, None]
            )
        ]
        row = self.decoder(levels)
        logits, distances = self.head(row)
        return Prediction(
            points=make_points(row.lengths, device=vision.device),
            lengths=row.lengths,
            logits=logits,
            distances=distances,
            mask=torch.cat([mask[:, 0] for _, mask in levels], 1),
            vision=seen,
            audio=heard,
            both=vision_mask & audio_mask,
        )

    def _stream(self, name: str, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        stream: Tensor = self.unimodal[name](self.embed[name](x, mask, lengths), mask)
        return stream

    def loss(
        self,
        prediction: Prediction,
        segments: list[Tensor],
        labels: list[Tensor],
        doubts: Sequence[Doubt] | None = None,
    ) -> Losses:
        """Eq 9 for one batch.

        Args:
            prediction: Of this batch.
            segments: For each video (N, 2) start and end in steps; N may be 0.
            labels: For each video (N,) class numbers.
            doubts: For each video how far this is believed; entirely, when omitted.
        """
        valid = prediction.mask
        target, distance = self.targets(prediction.points, segments, labels, valid)
        positive = (target > 0) & valid[..., None]
        doubt, positives = None, positive.any(-1).sum()
        if doubts is not None:
            doubt = doubt_points(
                prediction.points,
                segments,
                labels,
                doubts,
                classes=self.classes,
                valid=valid,
                nearest=self.force_nearest,
            )
            target = doubt.target
            positives = (doubt.interval_weight * positive).amax(-1).sum()  # as many as they weigh
        normaliser = self.normaliser(positives)
        classes = focal_loss(
            prediction.logits[valid],
            smooth_targets(target[valid], self.label_smoothing),
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            soft=doubt is not None,
        )
        if doubt is not None:
            classes = classes * doubt.weight[valid]
        classes = classes.sum() / normaliser
        if not self.class_aware:  # all classes of a point have the same distances: count them once
            positive = positive & (positive.cumsum(-1) == 1)
        intervals = interval_loss(
            prediction.distances[positive], distance[positive], kind=self.interval
        )
        if doubt is not None:
            intervals = intervals * doubt.interval_weight[positive]
        intervals = intervals.sum() / normaliser
        correspondence = prediction.logits.new_zeros(())
        if self.correspondence is not None:
            correspondence = self.correspondence(
                prediction.vision, prediction.audio, prediction.both
            )
        return Losses(
            total=classes
            + self.interval_weight * intervals
            + self.correspondence_weight * correspondence,
            classes=classes,
            intervals=intervals,
            correspondence=correspondence,
            positives=int(positives),
            missed=count_missed(prediction.points, segments, valid),
        )

    def targets(
        self, points: Points, segments: list[Tensor], labels: list[Tensor], valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class targets (B, P, K) and distances (B, P, K, 2) of a batch, on the points it has."""
        return assign_batch(
            points,
            segments,
            labels,
            classes=self.classes,
            valid=valid,
            force_nearest=self.force_nearest,
            class_aware=self.class_aware,
        )
