"""How alike picture and sound are, step by step: the matrix behind LoCo's Fig. 4.

Shapes: C channels, T steps, Tv and Ta of them with a picture and with sound.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_similarity(
    vision: Tensor, audio: Tensor, vision_mask: Tensor, audio_mask: Tensor
) -> Tensor:
    """Cosine of every step of the picture with every step of the sound.

    Taken of the unimodal blocks' outputs, before LCC's projection to C / 2, so that a model without
    LCC has one, too (LoCo, section 4.5).

    Args:
        vision: (C, T); `model.loco.Prediction` holds one for each video.
        audio: (C, T).
        vision_mask: (T,) True where picture exists.
        audio_mask: (T,) True where sound exists.

    Returns:
        (Tv, Ta) in [-1, 1]; rows and columns of steps that do not exist are left out.
    """
    seen = F.normalize(vision.float().T[vision_mask], dim=1)
    heard = F.normalize(audio.float().T[audio_mask], dim=1)
    return seen @ heard.T
