"""A weakly supervised network over a whole video of any length: activation of every step.

Shapes: T steps, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arithmetic import full_float32
from model.clasp import CLASP
from model.decoding import DecodingSettings, piece_hop, piece_starts
from model.pieces import Pieces
from model.pooling import top_mean


@dataclass(frozen=True, slots=True)
class VideoActivation:
    """What a network says of one video, on the CPU.

    Attributes:
        activation: (T, K) probability of each class at each step, in half precision.
        video: (K,) that it is anywhere in the video.
        agreement: (T,) how far sound and picture support one event, likewise.
        valid: (T,) steps at which picture and sound exist.
    """

    activation: Tensor
    video: Tensor
    agreement: Tensor
    valid: Tensor


class SequenceActivation:
    """Activation of one video whose features come block by block.

    A sequence longer than ``settings.chunk`` is cut into overlapping pieces; of what two pieces
    share, each answers for its half, and the video's score is the best of its pieces. What is kept
    grows by 2 K bytes a step.

    Args:
        model: In eval mode.
        settings: Of the pieces.
    """

    def __init__(self, model: CLASP, *, settings: DecodingSettings | None = None) -> None:
        settings = settings or DecodingSettings()
        self._model, self._chunk = model, settings.chunk
        self._buffer = Pieces(chunk=settings.chunk, hop=piece_hop(settings), look=self._look)
        self._starts: list[int] = []
        self._pieces: list[VideoActivation] = []

    @torch.inference_mode()
    def add(self, vision: Tensor, audio: Tensor, vision_mask: Tensor, audio_mask: Tensor) -> None:
        """Take the next consecutive steps.

        Args:
            vision: (Cv, n); on any device, the pieces are moved to the model's.
            audio: (Ca, n).
            vision_mask: (n,).
            audio_mask: (n,).
        """
        self._buffer.add(vision, audio, vision_mask, audio_mask)

    @torch.inference_mode()
    def finish(self) -> VideoActivation:
        """Activation of the whole video.

        Raises:
            ValueError: The sequence has no step.
        """
        self._buffer.finish()
        return join_pieces(self._pieces, self._starts, chunk=self._chunk)

    @full_float32()
    def _look(self, start: int, inputs: tuple[Tensor, ...]) -> None:
        device = next(self._model.parameters()).device
        said = self._model(*(x.to(device)[None] for x in inputs))
        self._starts.append(start)
        self._pieces.append(
            VideoActivation(
                said.activation[0].T.half().cpu(),
                said.video[0].float().cpu(),
                said.agreement[0].half().cpu(),
                said.both[0].cpu(),
            )
        )


def join_pieces(
    pieces: Sequence[VideoActivation], starts: Sequence[int], *, chunk: int
) -> VideoActivation:
    """Pieces side by side, cut in the middle of what neighbours share.

    Args:
        pieces: At least one.
        starts: First step of each.
        chunk: Steps of a piece, but for the last.
    """
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


def video_scores(
    activation: NDArray[np.floating[Any]],
    valid: NDArray[np.bool_],
    *,
    settings: DecodingSettings | None = None,
) -> NDArray[np.float32]:
    """Score of each class for a whole video, where no network gives one.

    The mean of its largest eighth (`model.pooling.top_mean`); of a video in several pieces the best
    of its pieces, as `join_pieces` has it, so that an event counts alike however long the rest is.

    Args:
        activation: (T, K) of any precision.
        valid: (T,) steps at which picture and sound exist.
        settings: Of the pieces.

    Returns:
        (K,); zeros for a video without a step.
    """
    settings = settings or DecodingSettings()
    best = np.zeros(activation.shape[1], np.float32)
    for start in piece_starts(len(valid), settings) if activation.size else ():
        piece = slice(start, start + settings.chunk)
        values = torch.from_numpy(activation[piece].T.astype(np.float32))
        score = top_mean(values[None], torch.from_numpy(valid[piece])[None])[0]
        best = np.maximum(best, score.numpy())
    return best
