"""ONE-PEACE's image branch as an encoder of frames, averaged over windows by whoever calls it.

A picture is prepared as the public interface does it: scaled to a square whatever its aspect.
Shapes: n frames, N frames in a batch, D width.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.onepeace.spec import ONEPEACE_IMAGE, RELEASED_SIZE, OnePeaceSize, Precision
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec
from extractors.vision.onepeace import OnePeaceImage, load_onepeace_image
from extractors.vision.preparing import preparing_pool
from extractors.vision.resize import resize

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of RGB 0 .. 1
STD = (0.26862954, 0.26130258, 0.27577711)


class OnePeaceImageEncoder:
    """ONE-PEACE's image branch; see `extractors.spec.VisionEncoder`.

    Args:
        net: The loaded net.
        spec: Its description.
        side: Height and width of the pictures that it sees.
        device: Where it runs.
        dtype: Type of its weights and of the arithmetic.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        net: OnePeaceImage,
        spec: EncoderSpec,
        *,
        side: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        self.spec = spec
        self._net = net.eval()
        self._side = side
        self._dtype = dtype
        self._mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(3, 1, 1)
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=4, device_chunk=64
        )
        self._pool = preparing_pool(threads)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The video's own size: frames are scaled by `prepare`, as the public interface does."""
        return width, height

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, H, W, 3) RGB frames to (n, side, side, 3)."""
        return np.concatenate(list(self._pool.map(self._scaled, frames)))

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode frames out of `prepare`, (N, side, side, 3); see `OnePeaceImage`."""
        if frames.shape[1:] != (self._side, self._side, 3) or frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be (N, {self._side}, {self._side}, 3) uint8, got {frames.shape} "
                f"{frames.dtype}"
            )
        (embeddings,) = self._run(frames)
        return Encoded(embeddings, None)

    def _scaled(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize(frame[None], self._side, self._side, filter="bicubic")

    def _forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        pixels = frames.permute(0, 3, 1, 2).float() / 255
        return (self._net(((pixels - self._mean) / self._std).to(self._dtype)),)


def load_onepeace_image_encoder(
    device: torch.device,
    *,
    spec: EncoderSpec = ONEPEACE_IMAGE,
    size: OnePeaceSize = RELEASED_SIZE,
    precision: Precision = "float32",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> OnePeaceImageEncoder:
    """Load the image branch of the checkpoint that the description names.

    Args:
        device: Where it runs.
        spec: Its description.
        size: Its measures.
        precision: Type of its weights and of the arithmetic.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    net = load_onepeace_image(
        device, weights=spec.weights, size=size, precision=precision, weights_dir=weights_dir
    )
    dtype = getattr(torch, precision)
    return OnePeaceImageEncoder(
        net, spec, side=size.image_side, device=device, dtype=dtype, threads=threads
    )
