"""Optical flow as the public feature extractor of I3D hands it on: cut, clamped and quantised.

Pictures are padded to multiples of 8 by repeating their borders, and the flow is *not* cut back to
them before its middle square is taken. Values beyond 20 pixels are clamped, and the rest rounded to
whole numbers 0 .. 256 (128 is no motion; 256 is one more than a byte holds, and is kept).

Source: the published constants of the video_features extractor.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from extractors.checkpoints.load import load_state
from extractors.i3d_vggish_spec import RAFT_WEIGHTS
from extractors.runner import Runner
from extractors.spec import WeightsFile
from extractors.vision.raft import ITERATIONS, SCALE, Raft
from extractors.weights.check import describe_weights
from extractors.weights.find import find_weights
from pipeline.core.errors import EnvironmentFault

LIMIT = 20.0  # pixels
CROP = 224
REMEMBERED = 64  # pairs: more than windows of any grid here share with those before


class FlowEstimator:
    """Flow between the neighbouring frames of windows, computed once for each pair of pictures.

    Windows overlap, and a still picture stays the same for many frames: pairs are told apart by
    what is in the pictures, so that neither is computed twice, in one call or across calls. Each
    thread, and so each video in flight, remembers its own.

    Args:
        net: The loaded net.
        device: Where it runs.
        crop: Height and width of the square that is kept.
        remember: Pairs of a thread's former calls whose flow is kept (0.4 MB each at a crop of
            224).
        threads: CPU cores to use; None takes torch's number of threads.
    """

    def __init__(
        self,
        net: Raft,
        *,
        device: torch.device,
        crop: int = CROP,
        remember: int = REMEMBERED,
        threads: int | None = None,
    ) -> None:
        self._net = net.eval()
        self._crop = crop
        self._remember = remember
        self._memory = threading.local()
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=1, device_chunk=16
        )

    def __call__(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Flow from each frame to the next one in its window.

        Args:
            windows: (N, T, H, W, 3) RGB, H and W of 121 or more and of ``crop`` or more.

        Returns:
            (N, T - 1, 2, crop, crop) whole numbers 0 .. 256: right, down.

        Raises:
            ValueError: Another shape or type.
        """
        fits = windows.ndim == 5 and windows.shape[4] == 3 and windows.shape[1] >= 2
        if not fits or windows.dtype != np.uint8 or min(windows.shape[2:4]) < self._crop:
            raise ValueError(
                f"windows must be (N, 2 or more, H, W, 3) uint8 with H and W of at least "
                f"{self._crop}, got {windows.shape} {windows.dtype}"
            )
        items, frames = windows.shape[:2]
        pairs = [(item, frame) for item in range(items) for frame in range(frames - 1)]
        names = [[_name(picture) for picture in window] for window in windows]
        keys = [names[item][frame] + names[item][frame + 1] for item, frame in pairs]
        flows = self._flows(windows, dict(zip(keys, pairs, strict=True)))
        found = np.empty((len(pairs), 2, self._crop, self._crop), np.float32)
        for place, key in enumerate(keys):
            found[place] = flows[key]
        return found.reshape(items, frames - 1, *found.shape[1:])

    def _flows(
        self, windows: NDArray[np.uint8], wanted: dict[bytes, tuple[int, int]]
    ) -> dict[bytes, NDArray[np.float32]]:
        """Flow of each pair by its name, from memory or computed now."""
        known = self._known
        flows = {key: known[key] for key in wanted if key in known}
        new = [key for key in wanted if key not in flows]
        if new:
            places = (wanted[key] for key in new)
            pairs = np.stack([windows[item, frame : frame + 2] for item, frame in places])
            (computed,) = self._run(pairs)
            flows.update(zip(new, computed, strict=True))
        for key in wanted:
            known[key] = flows[key]
            known.move_to_end(key)
        while len(known) > self._remember:
            known.popitem(last=False)
        return flows

    @property
    def _known(self) -> OrderedDict[bytes, NDArray[np.float32]]:
        """Flow of former calls of this thread by the pairs' names, the oldest first."""
        if not hasattr(self._memory, "known"):
            self._memory.known = OrderedDict()
        known: OrderedDict[bytes, NDArray[np.float32]] = self._memory.known
        return known

    def _forward(self, pairs: Tensor) -> tuple[Tensor, ...]:
        first, second = pad_to_scale(pairs.permute(1, 0, 4, 2, 3).float())
        return (quantise(centre_crop(self._net(first, second), self._crop)),)


def pad_to_scale(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) with borders repeated until H and W are multiples of 8, evenly on both sides.

    The odd row goes to the bottom and the odd column to the right.
    """
    height, width = pictures.shape[-2:]
    rows, columns = -height % SCALE, -width % SCALE
    left, top = columns // 2, rows // 2
    flat = pictures.reshape(-1, 1, height, width)
    padded = F.pad(flat, (left, columns - left, top, rows - top), mode="replicate")
    return padded.reshape(*pictures.shape[:-2], height + rows, width + columns)


def centre_crop(x: Tensor, side: int) -> Tensor:
    """(..., H, W) to the middle (..., side, side)."""
    top, left = ((length - side) // 2 for length in x.shape[-2:])
    return x[..., top : top + side, left : left + side]


def quantise(flow: Tensor) -> Tensor:
    """Pixels to whole numbers 0 .. 256: 128 + 255 / 40 * flow clamped to +-20, halves to even."""
    return torch.round(128 + 255 / (2 * LIMIT) * flow.clamp(-LIMIT, LIMIT))


def load_raft(
    device: torch.device,
    *,
    weights: WeightsFile = RAFT_WEIGHTS,
    iterations: int = ITERATIONS,
    weights_dir: str | os.PathLike[str] | None = None,
) -> Raft:
    """Load the net from a public checkpoint.

    Args:
        device: Where it runs.
        weights: The checkpoint.
        iterations: Steps of the recurrence.
        weights_dir: Folder in which it is looked for first.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    path = find_weights(weights, weights_dir=weights_dir)
    state = own_names(load_state(path, weights))
    with torch.device("meta"):
        net = Raft(iterations=iterations)
    try:
        net.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:60])
        raise EnvironmentFault(
            f"{path} holds the weights of another net: {reason}",
            hint=f"it should be {describe_weights(weights)}",
        ) from error
    return net.eval().requires_grad_(False).to(device)


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A public state dict under the names of `Raft`, in its precision: half becomes single.

    Left out are the prefix of parallel training, counters of batches, and the second name of the
    norm in each scaled-down shortcut.
    """
    names = {name: name.removeprefix("module.") for name in state}
    return {
        ours: state[name].float()
        for name, ours in names.items()
        if not ours.endswith("num_batches_tracked") and ".norm3." not in ours
    }


def _name(picture: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest()
