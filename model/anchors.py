"""Cross-modal salient anchors: the steps that both modalities are sure of. CLASP's CSAI.

Shapes: B videos, C channels, T steps, N anchors of a video, W steps of a local window.

Source: arXiv 2508.04566 states that anchors are found over the whole video and within windows, and
that the features of both modalities at an anchor become one. How many, how wide and how they are
joined is this project's reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCOPES = ("both", "global", "local")
FUSIONS = ("joint", "own")
BIASES = ("score", "gradient", "none")
CONTROLS = ("random", "spread", "least")
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Anchors:
    """Chosen steps of each video.

    Attributes:
        index: (B, N) steps; arbitrary where not valid.
        valid: (B, N) whether the place is used: videos differ in their number of anchors.
        is_local: (N,) whether the place holds anchors of windows.
    """

    index: Tensor
    valid: Tensor
    is_local: Tensor


def select_anchors(
    score: Tensor,
    valid: Tensor,
    *,
    scope: str = "both",
    divisor: int = 8,
    window: int = 16,
    per_window: int = 2,
    keep_repeated: bool = True,
) -> Anchors:
    """The steps of the largest scores, over each video and within its windows.

    A video with V valid steps has max(1, V // divisor) global anchors and, in each window of W
    steps, the best ``per_window`` of those that are valid. Only valid steps are chosen, so padding
    changes nothing.

    Args:
        score: (B, T).
        valid: (B, T) steps that may be chosen.
        scope: ``global``, ``local`` or ``both``.
        divisor: Steps for each global anchor.
        window: W.
        per_window: Anchors of a window.
        keep_repeated: Whether a step that is chosen both ways enters twice.

    Raises:
        ValueError: The scope is unknown.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}: use one of {SCOPES}")
    score = score.masked_fill(~valid, -torch.inf)
    wide_index, wide_valid = _best_of_video(score, valid, divisor)
    near_index, near_valid = _best_of_windows(score, window, per_window)
    if scope == "global":
        near_index, near_valid = near_index[:, :0], near_valid[:, :0]
    elif scope == "local":
        wide_index, wide_valid = wide_index[:, :0], wide_valid[:, :0]
    elif not keep_repeated:
        chosen = torch.zeros_like(valid).scatter(1, wide_index, wide_valid)
        near_valid = near_valid & ~chosen.gather(1, near_index)
    index = torch.cat([wide_index, near_index], 1)
    place = torch.arange(index.shape[1], device=score.device)
    return Anchors(index, torch.cat([wide_valid, near_valid], 1), place >= wide_index.shape[1])


def _best_of_video(score: Tensor, valid: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """(B, N) best steps of each video, and which of them it has."""
    most = max(1, score.shape[1] // divisor)
    wanted = (valid.sum(1) // divisor).clamp(min=1)
    best, index = score.topk(most, dim=1)
    rank = torch.arange(most, device=score.device)
    return index, (rank < wanted[:, None]) & best.isfinite()


def _best_of_windows(score: Tensor, window: int, per_window: int) -> tuple[Tensor, Tensor]:
    """(B, N) best steps of each window, and which of them are valid."""
    lack = -score.shape[1] % window
    windows = F.pad(score, (0, lack), value=-torch.inf).unflatten(1, (-1, window))
    best, place = windows.topk(min(per_window, window), dim=2)
    first = torch.arange(windows.shape[1], device=score.device)[:, None] * window
    index = (place + first).flatten(1).clamp(max=score.shape[1] - 1)
    return index, best.isfinite().flatten(1)


def control_ranking(agreement: Tensor, *, control: str, training: bool) -> Tensor:
    """What `select_anchors` goes by where anchors shall not be the steps of most agreement.

    Args:
        agreement: (B, T) in [0, 1].
        control: ``least`` agreement; ``spread``, steps that are evenly spread and depend on the
            place alone, the same in training as in test; ``random``, drawn anew for each batch of
            training and ``spread`` outside of it, so that a result depends neither on the batch nor
            on the run.
        training: Whether ``random`` is drawn.

    Returns:
        (B, T) in [0, 1].

    Raises:
        ValueError: The control is unknown.
    """
    if control not in CONTROLS:
        raise ValueError(f"unknown control {control!r}: use one of {CONTROLS}")
    if control == "least":
        return 1 - agreement
    if control == "random" and training:
        return torch.rand_like(agreement)
    places = torch.arange(agreement.shape[1], device=agreement.device, dtype=torch.float64)
    return (places * GOLDEN_RATIO).frac().to(agreement.dtype).expand_as(agreement)


class AnchorFusion(nn.Module):
    """Features of both modalities at an anchor as one, with a vector for its kind.

    U = LN(GELU(Linear([A_own ; A_other]))) + e, with e one vector for global and one for local
    anchors. ``own`` leaves the other modality out and has maps of its own for each (ablation).

    Args:
        channels: C.
        fusion: ``joint`` or ``own``.
    """

    def __init__(self, channels: int, *, fusion: str = "joint") -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}: use one of {FUSIONS}")
        names, inputs = {"joint": (("both",), 2), "own": (("audio", "vision"), 1)}[fusion]
        self.maps = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(inputs * channels, channels), nn.GELU(), nn.LayerNorm(channels)
                )
                for name in names
            }
        )
        self.kinds = nn.Parameter(torch.randn(2, channels) * 0.02)

    def forward(self, audio: Tensor, vision: Tensor, anchors: Anchors) -> dict[str, Tensor]:
        """Anchor features (B, N, C) for each modality, from streams (B, C, T)."""
        own = {
            "audio": _gather(audio, anchors.index),
            "vision": _gather(vision, anchors.index),
        }
        kind = self.kinds[anchors.is_local.long()]
        if "both" in self.maps:
            joined = self.maps["both"](torch.cat([own["audio"], own["vision"]], -1)) + kind
            return {"audio": joined, "vision": joined}
        return {name: self.maps[name](value) + kind for name, value in own.items()}


def _gather(stream: Tensor, index: Tensor) -> Tensor:
    """(B, C, T) at (B, N) steps: (B, N, C)."""
    return stream.transpose(1, 2).gather(1, index[..., None].expand(-1, -1, stream.shape[1]))
