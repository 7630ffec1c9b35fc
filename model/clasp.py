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

from model.anchors import AnchorFusion, arbitrary_scores, select_anchors
from model.attention import Block
from model.embedding import Embedding, own_lengths
from model.evidence import MEASURES, agreement_score
from model.heads import PRIOR_LOGIT
from model.loco import UnimodalBlocks
from model.mixing import GlobalAttention
from model.pooling import POOLINGS, AttentivePooling, top_mean
from model.propagation import Propagation

MODALITIES = ("vision", "audio")
SELECTIONS = (*MEASURES, "random")
SCOPES = ("both", "global", "local", "none")


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
            discrepancy, or ``random``.
        anchors: ``both`` scopes, ``global``, ``local``, or ``none``.
        anchor_divisor: Steps for each global anchor.
        anchor_window: Steps of a local window.
        anchors_per_window: Anchors of a window.
        keep_repeated: Whether a step chosen globally and locally enters twice.
        anchor_fusion: ``joint``, or each modality's ``own``.
        propagation: ``attention``, ``threshold`` or ``none``.
        gate: Of propagation, for each ``step`` or each ``channel``.
        rest: Whether there is an anchor that stands for nothing; see `Propagation`.
        pooling: ``top`` or ``attention``.
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
        anchor_fusion: str = "joint",
        propagation: str = "attention",
        gate: str = "step",
        rest: bool = False,
        pooling: str = "top",
        pool_divisor: int = 8,
        evidence_weight: float = 1.0,
        smoothness_weight: float = 0.1,
        sparsity_weight: float = 0.0,
    ) -> None:
        super().__init__()
        _check("selection", selection, SELECTIONS)
        _check("anchors", anchors, SCOPES)
        _check("pooling", pooling, POOLINGS)
        self.classes, self.max_seq_len = classes, max_seq_len
        self.selection, self.scope = selection, anchors
        self.divisor, self.window, self.per_window = (
            anchor_divisor,
            anchor_window,
            anchors_per_window,
        )
        self.keep_repeated, self.pool_divisor = keep_repeated, pool_divisor
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
                gate=gate,
                rest=rest,
            )
        )
        self.classify = _each(lambda name: _classifier(channels, classes))
        self.classify_joint = _classifier(2 * channels, classes)
        self.pool = None
        if pooling == "attention":
            self.pool = AttentivePooling(2 * channels, classes)

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
            for name, other in zip(MODALITIES, reversed(MODALITIES), strict=True)
        }
        evidence = {name: self.evidence[name](single[name]) for name in MODALITIES}
        agreement = self._agreement(evidence, both)
        streams = self._enhance(streams, masks, agreement, both)
        logits = {name: self.classify[name](streams[name]) for name in MODALITIES}
        joined = torch.cat([streams[name] for name in MODALITIES], 1)
        activation = self._activation(logits, self.classify_joint(joined), both)
        pooled = {"joint": self._pool(activation, joined, both)}
        for name in MODALITIES:
            pooled[name] = self._pool(logits[name].sigmoid(), joined, both)
            pooled[f"evidence_{name}"] = self._pool(evidence[name].sigmoid(), joined, both)
        return Activation(activation, pooled["joint"], agreement, both, pooled)

    def _agreement(self, evidence: dict[str, Tensor], both: Tensor) -> Tensor:
        """(B, T) score that chooses the anchors."""
        if self.selection == "random":
            return arbitrary_scores(both.float(), training=self.training) * both
        measure = self.selection
        return agreement_score(evidence["audio"], evidence["vision"], measure=measure) * both

    def _enhance(
        self, streams: dict[str, Tensor], masks: dict[str, Tensor], agreement: Tensor, both: Tensor
    ) -> dict[str, Tensor]:
        """Both streams after propagation from the anchors."""
        if self.fuse is None:
            return streams
        chosen = select_anchors(
            agreement,
            both,
            scope=self.scope,
            divisor=self.divisor,
            window=self.window,
            per_window=self.per_window,
            keep_repeated=self.keep_repeated,
        )
        anchors = self.fuse(streams["audio"], streams["vision"], chosen)
        score = agreement.gather(1, chosen.index)
        if self.selection == "random":
            score = torch.ones_like(score)  # what means nothing must not weigh anything
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

    def _pool(self, values: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        if self.pool is not None:
            return self.pool(values, features, valid)
        return top_mean(values, valid, divisor=self.pool_divisor)

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
            name: _cross_entropy(scores, target, usable)
            for name, scores in prediction.pooled.items()
        }
        classes = terms["joint"] + (terms["vision"] + terms["audio"]) / 2
        evidence = (terms["evidence_vision"] + terms["evidence_audio"]) / 2
        smoothness = _mean_change(prediction.activation, prediction.both)
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


def _cross_entropy(scores: Tensor, target: Tensor, usable: Tensor) -> Tensor:
    """Mean over usable videos and classes of the binary cross-entropy of probabilities."""
    terms = F.binary_cross_entropy(scores.float().clamp(0.0, 1.0), target, reduction="none")
    return (terms.mean(1) * usable).sum() / usable.sum().clamp(min=1)


def _mean_change(activation: Tensor, valid: Tensor) -> Tensor:
    """Mean |p_{t+1} - p_t| over classes and pairs of valid steps; 0 where there is no pair."""
    pairs = valid[:, 1:] & valid[:, :-1]
    change = activation.diff(dim=2).abs().mean(1) * pairs
    return change.sum() / pairs.sum().clamp(min=1)
