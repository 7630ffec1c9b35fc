"""Whether picture and sound are matched by what happens or by where in the sequence it stands.

Both streams carry the same absolute positions. A network can therefore answer LCC without looking
at any content: step 40 of the picture belongs to step 40 of the sound. The test that tells the two
apart: give it the sound of some seconds later, and see which sound each picture is nearest to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.windows import WindowGrid
from model.loco import LoCo
from model.similarity import cross_similarity

SHIFT_S = 10.0
NEAR_S = 1.0


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the steps of a video, the share whose nearest sound lies within `NEAR_S` of a place.

    Attributes:
        own: Of the same moment, in the video as it is.
        place: Of the same position in the sequence, with the sound of `SHIFT_S` later.
        content: Of where the sound of the same moment has gone, with the sound so shifted.
        chance: What a nearest sound drawn at random would reach.
    """

    own: float
    place: float
    content: float
    chance: float


@torch.inference_mode()
def shift_sound(model: LoCo, inputs: Sequence[Tensor], grid: WindowGrid) -> Shares | None:
    """Compare a video with itself, its sound taken `SHIFT_S` later (the end goes to the front).

    Nearest is the largest cosine of the unimodal blocks' outputs (`cross_similarity`).

    Args:
        model: In eval mode.
        inputs: Picture (Dv, T), sound (Da, T), and their masks (T,).
        grid: Of the features.

    Returns:
        None for a video in which the same position and the same content are not at least
        `SHIFT_S` apart, counted around the end.
    """
    vision, audio, seen, heard = inputs
    both = seen & heard
    steps = int(both.sum())
    lag, near = round(SHIFT_S / grid.step_seconds), round(NEAR_S / grid.step_seconds)
    if steps < 2 * lag:
        return None
    vision, audio = vision[:, both], audio[:, both]
    own = _nearest(model, vision, audio)
    moved = _nearest(model, vision, audio.roll(-lag, dims=1))
    here = np.arange(steps)
    return Shares(
        own=_share_within(own, here, near),
        place=_share_within(moved, here, near),
        content=_share_within(moved, (here - lag) % steps, near),
        chance=min(1.0, (2 * near + 1) / steps),
    )


def mean_shares(rows: Sequence[Shares]) -> Shares | None:
    """Mean over videos; None for none."""
    if not rows:
        return None
    table = np.array([(row.own, row.place, row.content, row.chance) for row in rows])
    return Shares(*(float(value) for value in table.mean(0)))


def _nearest(model: LoCo, vision: Tensor, audio: Tensor) -> NDArray[np.int64]:
    """The sound step that each picture step is most like, (T,)."""
    device = next(model.parameters()).device
    mask = torch.ones(vision.shape[1], dtype=torch.bool, device=device)
    prediction = model(vision[None].to(device), audio[None].to(device), mask[None], mask[None])
    cells = cross_similarity(prediction.vision[0], prediction.audio[0], mask, mask)
    nearest: NDArray[np.int64] = cells.argmax(1).cpu().numpy()
    return nearest


def _share_within(found: NDArray[np.int64], expected: NDArray[np.int64], near: int) -> float:
    """Share of places that lie within ``near`` steps of where they are expected, around the end."""
    distance = np.abs(found - expected)
    return float((np.minimum(distance, len(found) - distance) <= near).mean())
