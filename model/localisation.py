"""A weakly supervised network over a whole video of any length: activation of every step.

Shapes: T steps, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from model.clasp import CLASP
from model.decoding import DecodingSettings, piece_starts


@dataclass(frozen=True, slots=True)
class VideoActivation:
    """What a network says of one video, on the CPU.

    Attributes:
        activation: (T, K) probability of each class at each step.
        video: (K,) that it is anywhere in the video.
        agreement: (T,) how far sound and picture support one event.
        valid: (T,) steps at which picture and sound exist.
    """

    activation: Tensor
    video: Tensor
    agreement: Tensor
    valid: Tensor


@torch.inference_mode()
def activate_sequence(
    model: CLASP,
    vision: Tensor,
    audio: Tensor,
    vision_mask: Tensor,
    audio_mask: Tensor,
    *,
    settings: DecodingSettings | None = None,
) -> VideoActivation:
    """Activation of one video.

    A sequence longer than ``settings.chunk`` is cut into overlapping pieces; of what two pieces
    share, each answers for its half, and the video's score is the best of its pieces.

    Args:
        model: In eval mode.
        vision: (Cv, T); on any device, the pieces are moved to the model's.
        audio: (Ca, T).
        vision_mask: (T,).
        audio_mask: (T,).
        settings: Of the pieces.

    Raises:
        ValueError: The sequence has no step.
    """
    settings = settings or DecodingSettings()
    steps = vision.shape[-1]
    if steps == 0:
        raise ValueError("a sequence of 0 steps holds no events")
    device = next(model.parameters()).device
    starts = piece_starts(steps, settings)
    inputs = (vision, audio, vision_mask, audio_mask)
    pieces = []
    for start in starts:
        part = slice(start, start + settings.chunk)
        said = model(*(x[..., part].to(device)[None] for x in inputs))
        pieces.append(
            VideoActivation(
                said.activation[0].T.float().cpu(),
                said.video[0].float().cpu(),
                said.agreement[0].float().cpu(),
                said.both[0].cpu(),
            )
        )
    return _join(pieces, starts, settings.chunk)


def _join(pieces: Sequence[VideoActivation], starts: Sequence[int], chunk: int) -> VideoActivation:
    """Pieces side by side, cut in the middle of what neighbours share."""
    middles = [(following + start + chunk) // 2 for start, following in pairwise(starts)]
    cuts = [0, *middles, starts[-1] + len(pieces[-1].valid)]

    def joined(name: str) -> Tensor:
        return torch.cat(
            [
                getattr(piece, name)[low - start : high - start]
                for piece, start, low, high in zip(pieces, starts, cuts, cuts[1:], strict=False)
            ]
        )

    video = torch.stack([piece.video for piece in pieces]).amax(0)
    return VideoActivation(joined("activation"), video, joined("agreement"), joined("valid"))
