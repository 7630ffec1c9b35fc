"""CLASP: events from video-level labels, through cross-modal salient anchors.

Source: arXiv 2508.04566 fixes what each module is for; its equations were not at hand, so all of
them are this project's reconstruction, and what has several readings is an argument here. There is
no pyramid and no regression: neither can be trained without boundaries.

Shapes: B videos, T steps, Cv and Ca feature widths, C channels, K classes, N anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.anchors import BIASES, CONTROLS, AnchorFusion, Anchors, control_ranking, select_anchors
from model.attention import Block, UnimodalBlocks
from model.embedding import Embedding, own_lengths
from model.evidence import MEASURES, agreement_score
from model.heads import PRIOR_LOGIT
from model.layers import ChannelNorm
from model.mixing import GlobalAttention
from model.pooling import POOLINGS, AttentivePooling, ModalityPooling, top_mean
from model.propagation import Propagation
from model.temporal_gate import TemporalGate
from model.video_losses import mean_change, video_cross_entropy

MODALITIES = ("vision", "audio")
OTHER = {"vision": "audio", "audio": "vision"}
SELECTIONS = (*MEASURES, *CONTROLS)
SCOPES = ("both", "global", "local", "none")
STREAM_FUSIONS = ("concatenation", "mean")


@dataclass(frozen=True, slots=True)
class Activation:
    """What the network says of each step and of the whole video.

    Attributes:
        activation: (B, K, T) probability that the class is heard and seen, 0 outside ``both``.
        video: (B, K) that it is anywhere in the video.
        agreement: (B, T) how far sound and picture support one event.
        both: (B, T) steps at which picture and sound exist.
        pooled: Each (B, K), the video's scores of every classifier by name, for the loss.
    """

    activation: Tensor
    video: Tensor
    agreement: Tensor
    both: Tensor
    pooled: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ActivationLosses:
    """Terms of the loss, each a scalar.

    Attributes:
        total: To be minimised.
        classes: Cross-entropy of the pooled scores, the joint one and half of each modality's.
        evidence: The same for the classifiers before the modalities meet.
        smoothness: Mean change of the activation from step to step.
        sparsity: Mean over steps of the largest activation.
        unlabelled: Videos of the batch that no term could use: without a step at which picture and
            sound exist.
    """

    total: Tensor
    classes: Tensor
    evidence: Tensor
    smoothness: Tensor
    sparsity: Tensor
    unlabelled: int

    def terms(self) -> dict[str, float]:
        """What a log says of one iteration."""
        return {
            "loss": self.total.item(),
            "classes": self.classes.item(),
            "evidence": self.evidence.item(),
            "smoothness": self.smoothness.item(),
            "sparsity": self.sparsity.item(),
            "unlabelled": self.unlabelled,
        }


class CLASP(nn.Module):
    """The whole network.

    Args:
        vision_dim: Cv.
        audio_dim: Ca.
        classes: K.
        channels: C.
        heads: Attention heads.
        unimodal_blocks: Self-attention blocks of each stream.
        drop_path: Probability of stochastic depth.
        max_seq_len: Length of the position table.
        positions: ``continued`` or ``stretched`` beyond ``max_seq_len``; see `Embedding`.
        embedding_layers: Convolutions of the embedding.
        selection: What makes an anchor: a measure of `agreement_score`, ``confidence`` without
            discrepancy; or a control of `control_ranking`: ``random``, ``spread``, ``least``.
        anchors: ``both`` scopes, ``global``, ``local``, or ``none``.
        anchor_divisor: Steps for each global anchor.
        anchor_window: Steps of a local window.
        anchors_per_window: Anchors of a window.
        keep_repeated: Whether a step chosen globally and locally enters twice.
        temporal_gate: Whether each modality amplifies steps of the other; see `TemporalGate`.
        anchor_bias: Whether attention to an anchor is biased by ln of its ``score`` of agreement;
            likewise with ``gradient``, which reaches the evidence that way; or ``none``. Controls
            are never weighed by what did not choose them.
        anchor_fusion: ``joint``, or each modality's ``own``.
        propagation: ``attention``, ``threshold`` or ``none``.
        propagation_threshold: Of ``threshold``; see `Propagation`.
        gate: Of propagation, for each ``step`` or each ``channel``.
        rest: Whether there is an anchor that stands for nothing; see `Propagation`.
        stream_fusion: What the joint classifier reads: ``concatenation`` of both streams, or their
            ``mean`` after one LayerNorm for both, as in positive sample propagation.
        pooling: ``top``, ``attention`` or ``modality``; see `model.pooling`.
        pool_divisor: Steps for each of the steps that ``top`` takes the mean of.
        evidence_weight: Lambda_0, of the classifiers before the modalities meet.
        smoothness_weight: Lambda_s.
        sparsity_weight: Lambda_n.
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
        drop_path: float = 0.1,
        max_seq_len: int = 256,
        positions: str = "continued",
        embedding_layers: int = 2,
        selection: str = "bernoulli",
        anchors: str = "both",
        anchor_divisor: int = 8,
        anchor_window: int = 16,
        anchors_per_window: int = 2,
        keep_repeated: bool = True,
        temporal_gate: bool = False,
        anchor_bias: str = "score",
        anchor_fusion: str = "joint",
        propagation: str = "attention",
        propagation_threshold: float = 0.95,
        gate: str = "step",
        rest: bool = False,
        stream_fusion: str = "concatenation",
        pooling: str = "top",
        pool_divisor: int = 8,
        evidence_weight: float = 1.0,
        smoothness_weight: float = 0.1,
        sparsity_weight: float = 0.0,
    ) -> None:
        super().__init__()
        _check("selection", selection, SELECTIONS)
        _check("anchors", anchors, SCOPES)
        _check("anchor bias", anchor_bias, BIASES)
        _check("stream fusion", stream_fusion, STREAM_FUSIONS)
        _check("pooling", pooling, POOLINGS)
        self.classes, self.max_seq_len = classes, max_seq_len
        self.selection, self.scope = selection, anchors
        self.bias = "none" if selection in CONTROLS else anchor_bias
        self.divisor, self.window = anchor_divisor, anchor_window
        self.per_window, self.keep_repeated = anchors_per_window, keep_repeated
        self.pool_divisor = pool_divisor
        self.evidence_weight = evidence_weight
        self.smoothness_weight, self.sparsity_weight = smoothness_weight, sparsity_weight
        widths = {"vision": vision_dim, "audio": audio_dim}
        self.embed = _each(
            lambda name: Embedding(
                widths[name],
                channels,
                max_seq_len=max_seq_len,
                positions=positions,
                layers=embedding_layers,
            )
        )
        self.unimodal = _each(
            lambda name: UnimodalBlocks(
                channels, heads, blocks=unimodal_blocks, drop_path=drop_path
            )
        )
        self.cross = _each(
            lambda name: Block(channels, heads, GlobalAttention(), drop_path=drop_path)
        )
        self.evidence = _each(lambda name: _classifier(channels, classes))
        self.fuse = AnchorFusion(channels, fusion=anchor_fusion) if anchors != "none" else None
        self.propagate = _each(
            lambda name: Propagation(
                channels,
                heads,
                operator="none" if anchors == "none" else propagation,
                threshold=propagation_threshold,
                gate=gate,
                rest=rest,
            )
        )
        self.classify = _each(lambda name: _classifier(channels, classes))
        self.norm_joint = ChannelNorm(channels) if stream_fusion == "mean" else None
        width = 2 * channels if self.norm_joint is None else channels
        self.classify_joint = _classifier(width, classes)
        # What is off by default draws its weights last: those of all else stay the same.
        self.pool: AttentivePooling | ModalityPooling | None = None
        if pooling == "attention":
            self.pool = AttentivePooling(width, classes)
        elif pooling == "modality":
            self.pool = ModalityPooling(channels, classes)
        self.temporal_gate = None
        if temporal_gate:
            self.temporal_gate = _each(
                lambda name: TemporalGate(channels, heads, drop_path=drop_path)
            )

    def forward(
        self, vision: Tensor, audio: Tensor, vision_mask: Tensor, audio_mask: Tensor
    ) -> Activation:
        """Predict at every step.

        Args:
            vision: (B, Cv, T).
            audio: (B, Ca, T).
            vision_mask: (B, T) True where picture exists.
            audio_mask: (B, T) True where sound exists.
        """
        lengths = own_lengths(vision_mask | audio_mask)
        masks = {"vision": vision_mask[:, None], "audio": audio_mask[:, None]}
        inputs = {"vision": vision, "audio": audio}
        both = vision_mask & audio_mask
        single = {
            name: self.unimodal[name](
                self.embed[name](inputs[name], masks[name], lengths), masks[name]
            )
            for name in MODALITIES
        }
        streams = {
            name: self.cross[name](single[name], single[other], masks[name], masks[other])[0]
            for name, other in OTHER.items()
        }
        if self.temporal_gate is not None:
            streams = {
                name: self.temporal_gate[other](streams[name], single[other], masks[other])
                for name, other in OTHER.items()
            }
        evidence = {name: self.evidence[name](single[name]) for name in MODALITIES}
        agreement = self._agreement(evidence, both)
        streams = self._enhance(streams, masks, agreement, both)
        logits = {name: self.classify[name](streams[name]) for name in MODALITIES}
        joined = self._join(streams)
        activation = self._activation(logits, self.classify_joint(joined), both)
        values = {"joint": activation}
        for name in MODALITIES:
            # Half precision has no probability between 0.996 and 1: a confident mistake would have
            # neither the right loss nor a gradient.
            values[name] = logits[name].float().sigmoid()
            values[f"evidence_{name}"] = evidence[name].float().sigmoid()
        pooled = self._pool(values, streams, joined, both)
        return Activation(activation, pooled["joint"], agreement.detach(), both, pooled)

    def _agreement(self, evidence: dict[str, Tensor], both: Tensor) -> Tensor:
        """(B, T), 0 where a modality is missing."""
        measure = MEASURES[0] if self.selection in CONTROLS else self.selection
        score = agreement_score(
            evidence["audio"],
            evidence["vision"],
            measure=measure,
            differentiable=self.bias == "gradient",
        )
        return score * both

    def choose_anchors(self, agreement: Tensor, both: Tensor) -> Anchors | None:
        """The steps that speak for others; None where the network has no anchors.

        Args:
            agreement: (B, T), as in `Activation`.
            both: (B, T), likewise.
        """
        if self.scope == "none":
            return None
        ranking = agreement
        if self.selection in CONTROLS:
            ranking = control_ranking(agreement, control=self.selection, training=self.training)
        return select_anchors(
            ranking,
            both,
            scope=self.scope,
            divisor=self.divisor,
            window=self.window,
            per_window=self.per_window,
            keep_repeated=self.keep_repeated,
        )

    def _enhance(
        self, streams: dict[str, Tensor], masks: dict[str, Tensor], agreement: Tensor, both: Tensor
    ) -> dict[str, Tensor]:
        """Both streams after propagation from the anchors."""
        chosen = self.choose_anchors(agreement, both)
        if self.fuse is None or chosen is None:
            return streams
        anchors = self.fuse(streams["audio"], streams["vision"], chosen)
        score = agreement.gather(1, chosen.index)
        if self.bias == "none":
            score = torch.ones_like(score)
        return {
            name: self.propagate[name](
                streams[name], masks[name], anchors[name], chosen.valid, score
            )
            for name in MODALITIES
        }

    @staticmethod
    def _activation(logits: dict[str, Tensor], joint: Tensor, both: Tensor) -> Tensor:
        """sqrt(P sqrt(Pa Pv)), from logarithms: the root's slope has no bound at 0."""
        own = [F.logsigmoid(logits[name].float()) for name in MODALITIES]
        log = F.logsigmoid(joint.float()) / 2 + (own[0] + own[1]) / 4
        return log.exp() * both[:, None]

    def _join(self, streams: dict[str, Tensor]) -> Tensor:
        """(B, 2 C, T), or (B, C, T) of the mean."""
        vision, audio = (streams[name] for name in MODALITIES)
        if self.norm_joint is None:
            return torch.cat([vision, audio], 1)
        mean: Tensor = (self.norm_joint(vision) + self.norm_joint(audio)) / 2
        return mean

    def _pool(
        self, values: dict[str, Tensor], streams: dict[str, Tensor], joined: Tensor, both: Tensor
    ) -> dict[str, Tensor]:
        """(B, K) of each of the values (B, K, T)."""
        if isinstance(self.pool, ModalityPooling):
            return self.pool(values, streams, both)
        if self.pool is not None:
            return {name: self.pool(value, joined, both) for name, value in values.items()}
        return {
            name: top_mean(value, both, divisor=self.pool_divisor) for name, value in values.items()
        }

    def loss(self, prediction: Activation, labels: list[Tensor]) -> ActivationLosses:
        """The loss of one batch from the classes of each video; segments are not asked for.

        Args:
            prediction: Of this batch.
            labels: For each video the numbers of its classes; repeated ones count once, and a
                video may have none.
        """
        target = torch.stack(
            [
                torch.zeros_like(row).index_fill(0, classes.to(row.device), 1.0)
                for row, classes in zip(prediction.video, labels, strict=True)
            ]
        )
        usable = prediction.both.any(1)
        terms = {
            name: video_cross_entropy(scores, target, usable)
            for name, scores in prediction.pooled.items()
        }
        classes = terms["joint"] + (terms["vision"] + terms["audio"]) / 2
        evidence = (terms["evidence_vision"] + terms["evidence_audio"]) / 2
        smoothness = mean_change(prediction.activation, prediction.both)
        best = prediction.activation.amax(1)
        sparsity = best.sum() / prediction.both.sum().clamp(min=1)
        return ActivationLosses(
            total=classes
            + self.evidence_weight * evidence
            + self.smoothness_weight * smoothness
            + self.sparsity_weight * sparsity,
            classes=classes,
            evidence=evidence,
            smoothness=smoothness,
            sparsity=sparsity,
            unlabelled=int((~usable).sum()),
        )


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}: use one of {known}")


def _each(make: Callable[[str], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({name: make(name) for name in MODALITIES})


def _classifier(channels: int, classes: int) -> nn.Conv1d:
    layer = nn.Conv1d(channels, classes, 1)
    nn.init.constant_(layer.bias, PRIOR_LOGIT)  # type: ignore[arg-type]
    return layer
