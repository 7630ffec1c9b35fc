"""ONE-PEACE's image branch, and its video branch fine-tuned on Kinetics-400.

Source: Wang et al., "ONE-PEACE", 2023 (image branch); the video branch adds the adapters of
Yang et al., "AIM: Adapting Image Models for Efficient Video Action Recognition", ICLR 2023.

The video feature of a window is the mean over 16 frames of the class token behind the last
norm, not normalised. Its pictures are prepared as the public pipeline (mmaction2 0.15) does it for
one view: scaled by OpenCV, and the middle square of them. Shapes: N items, T frames, L tokens with
the class token first, D width.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from extractors.onepeace.layers import (
    NORM_EPS,
    Attention,
    Layer,
    PictureAdapter,
    feed_forward,
    run_layers,
)
from extractors.onepeace.spec import (
    BASE_WEIGHTS,
    ONEPEACE_VIDEO,
    RELEASED_SIZE,
    VISION_WEIGHTS,
    OnePeaceSize,
    Precision,
)
from extractors.onepeace.weights import load_branch
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec, WeightsFile
from extractors.vision.preparing import preparing_pool
from extractors.vision.resize_opencv import resize_linear_and_crop
from extractors.windows import even_frames

MEAN = (122.771, 116.746, 104.094)  # of RGB 0..255
STD = (68.5, 66.632, 70.323)
MLP_ADAPTER_SCALE = 0.5


class OnePeaceImage(nn.Module):
    """The image branch: pictures to embeddings.

    Args:
        size: Its measures.
        head: Whether the last norm has weights and a projection follows. ``one-peace-vision.pkl``
            lacks both.
    """

    def __init__(self, size: OnePeaceSize, *, head: bool = True) -> None:
        super().__init__()
        self.adapter = PictureAdapter(size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.dim, eps=NORM_EPS, elementwise_affine=head)
        self.proj = nn.Linear(size.dim, size.dim) if head else None

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) normalised RGB to (N, D) embeddings, with a head of unit length."""
        seen = self.tokens(pictures)[:, 0]
        return seen.float() if self.proj is None else F.normalize(self.proj(seen).float(), dim=1)

    def tokens(self, pictures: Tensor) -> Tensor:
        """(N, 3, side, side) normalised RGB to (N, L, D) tokens behind the last norm."""
        x = self.adapter(pictures)
        biases = self.adapter.biases(layers=len(self.layers))
        return self.norm(run_layers(self.layers, x, biases))


class Adapter(nn.Module):
    """Narrow, GELU, widen."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(size.dim, size.adapter)
        self.D_fc2 = nn.Linear(size.adapter, size.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D), without what came in."""
        return self.D_fc2(F.gelu(self.D_fc1(x)))


class VideoLayer(nn.Module):
    """A layer of the image branch that also looks across frames, with the same attention weights.

    1. Each token attends to its own place in all frames; the temporal adapter adds what it found.
    2. Each frame attends to itself; the spatial adapter adds to that. The sum joins the layer's
       *input*: what step 1 found reaches the output only through step 2.
    3. Feed-forward, and beside it the third adapter.
    """

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.self_attn = Attention(size)
        self.gamma_1 = nn.Parameter(torch.ones(size.dim))
        self.final_layer_norm = nn.LayerNorm(size.dim, eps=NORM_EPS)
        self.ffn = feed_forward(size)
        self.gamma_2 = nn.Parameter(torch.ones(size.dim))
        self.T_Adapter = Adapter(size)
        self.S_Adapter = Adapter(size)
        self.MLP_Adapter = Adapter(size)

    def forward(self, x: Tensor, bias: Tensor, *, frames: int) -> Tensor:
        """(N * T, L, D) and (1, H, L, L) to (N * T, L, D), T = ``frames``."""
        by_place = _swap(self.self_attn_layer_norm(x), frames)
        across = _swap(self.self_attn(by_place), x.shape[1])
        seen = x + self.T_Adapter(across)
        within = self.self_attn(self.self_attn_layer_norm(seen), bias)
        x = x + self.gamma_1 * (within + self.S_Adapter(within))
        n = self.final_layer_norm(x)
        return x + self.gamma_2 * self.ffn(n) + MLP_ADAPTER_SCALE * self.MLP_Adapter(n)


class OnePeaceVideo(nn.Module):
    """The video branch: windows of frames to embeddings."""

    def __init__(self, size: OnePeaceSize) -> None:
        super().__init__()
        self.adapter = PictureAdapter(size)
        self.temporal_embedding = nn.Parameter(torch.zeros(1, size.frames, size.dim))
        self.layers = nn.ModuleList(VideoLayer(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.dim, eps=NORM_EPS)

    def forward(self, windows: Tensor) -> Tensor:
        """(N, T, 3, side, side) normalised RGB to (N, D)."""
        return self.frame_tokens(windows).float().mean(dim=1)

    def frame_tokens(self, windows: Tensor) -> Tensor:
        """(N, T, 3, side, side) normalised RGB to (N, T, D): the class token of each frame."""
        items, frames = windows.shape[:2]
        x = self.adapter(windows.flatten(0, 1))
        x = (x.unflatten(0, (items, frames)) + self.temporal_embedding[:, :, None]).flatten(0, 1)
        biases = self.adapter.biases(layers=len(self.layers))
        for layer, bias in zip(self.layers, biases, strict=True):
            x = layer(x, bias, frames=frames)
        return self.norm(x[:, 0]).unflatten(0, (items, frames))


class OnePeaceVideoEncoder:
    """ONE-PEACE's video branch as a window encoder; see `extractors.spec.VisionEncoder`.

    Args:
        net: The loaded net.
        spec: Its description.
        side: Height and width of the pictures that it sees.
        window: Frames of a window, of which the net is given as many as it takes, spread evenly;
            None for so many.
        device: Where it runs.
        dtype: Type of its weights and of the arithmetic.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        net: OnePeaceVideo,
        spec: EncoderSpec,
        *,
        side: int,
        window: int | None = None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        self.spec = spec
        self._net = net.eval()
        self._side = side
        taken = net.temporal_embedding.shape[1]
        self._window = window or taken
        self._places = even_frames(self._window, taken)
        self._dtype = dtype
        self._mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(3, 1, 1)
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=1, device_chunk=4
        )
        self._pool = preparing_pool(threads)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The video's own size: frames are scaled by `prepare`, as the public pipeline does."""
        return width, height

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, H, W, 3) RGB frames to their middle squares (n, side, side, 3), scaled."""
        return np.concatenate(list(self._pool.map(self._middle, frames)))

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode (N, window, side, side, 3) RGB frames out of `prepare`."""
        wanted = (self._window, self._side, self._side, 3)
        if frames.shape[1:] != wanted or frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be (N, {', '.join(map(str, wanted))}) uint8, got {frames.shape} "
                f"{frames.dtype}"
            )
        if len(self._places) < self._window:
            frames = frames[:, self._places]
        (embeddings,) = self._run(frames)
        return Encoded(embeddings, None)

    def _middle(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize_linear_and_crop(frame[None], side=self._side)

    def _forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        pixels = frames.permute(0, 1, 4, 2, 3).float()
        return (self._net(((pixels - self._mean) / self._std).to(self._dtype)),)


def load_onepeace_video(
    device: torch.device,
    *,
    spec: EncoderSpec = ONEPEACE_VIDEO,
    size: OnePeaceSize = RELEASED_SIZE,
    window: int | None = None,
    precision: Precision = "float32",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> OnePeaceVideoEncoder:
    """Load the video branch of ``onepeace_video_k400.pth``.

    Args:
        device: Where it runs.
        spec: Its description.
        size: Its measures.
        window: Frames of a window; None for as many as the net takes.
        precision: Type of its weights and of the arithmetic.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    net = load_branch(
        OnePeaceVideo,
        "video",
        spec.weights,
        size=size,
        device=device,
        precision=precision,
        weights_dir=weights_dir,
    )
    dtype = getattr(torch, precision)
    return OnePeaceVideoEncoder(
        net,
        spec,
        side=size.image_side,
        window=window,
        device=device,
        dtype=dtype,
        threads=threads,
    )


def load_onepeace_image(
    device: torch.device,
    *,
    weights: WeightsFile = BASE_WEIGHTS,
    size: OnePeaceSize = RELEASED_SIZE,
    precision: Precision = "float32",
    weights_dir: str | os.PathLike[str] | None = None,
) -> OnePeaceImage:
    """Load the image branch.

    Args:
        device: Where it runs.
        weights: `BASE_WEIGHTS`, or `VISION_WEIGHTS` for the file of this branch alone, which lacks
            its head.
        size: Its measures.
        precision: Type of its weights and of the arithmetic.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    head = weights.file != VISION_WEIGHTS.file
    return load_branch(
        partial(OnePeaceImage, head=head),
        "image" if head else "vision",
        weights,
        size=size,
        device=device,
        precision=precision,
        weights_dir=weights_dir,
    ).eval()


def _swap(x: Tensor, count: int) -> Tensor:
    """(N * ``count``, M, D) to (N * M, ``count``, D)."""
    return x.unflatten(0, (-1, count)).transpose(1, 2).flatten(0, 1)
