"""Image and video nets of ``transformers``, behind their own preprocessing.

Scaling and cutting is done by the model's own processor, once per frame and as soon as it is
decoded; frames wait as bytes. What follows is a function of each byte (scaling to [0, 1], mean,
standard deviation): it is read off the processor for all 256 values once, so that the net sees
bit by bit what the processor would hand it. The processors on Pillow are used whatever is
installed, because those on torchvision scale a little differently.

Shapes: n frames, N frames or windows in a batch, T frames of a window (of which a video net may see
fewer), H and W as decoded, h and w as the net sees them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractors.hf.hub import INSTALL
from extractors.hf.model import HfModel
from extractors.hf.net import load_encoder, pool
from extractors.runner import Runner
from extractors.spec import Encoded
from extractors.vision.preparing import preparing_pool
from extractors.windows import WindowGrid, even_frames
from pipeline.core.errors import EnvironmentFault

_PROBES = ((48, 64), (64, 48))  # heights and widths that tell what a processor makes of pictures


class PicturePreparer:
    """A processor's scaling and cutting, and the rest of it as a table.

    Args:
        processor: Image processor of ``transformers``.

    Attributes:
        size: Height and width that every picture comes out with.
        table: (3, 256) float32: what a byte becomes, by channel.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        sizes = {self.bytes_of(np.zeros((*shape, 3), np.uint8)).shape[:2] for shape in _PROBES}
        if len(sizes) != 1:
            raise EnvironmentFault(
                "the model's processor makes pictures of several shapes, "
                f"{' and '.join(f'{w}x{h}' for h, w in sorted(sizes))}",
                hint="take a model whose processor cuts or scales to one size",
            )
        self.size: tuple[int, int] = sizes.pop()
        ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        values = self._run(ramp, do_resize=False, do_center_crop=False)
        self.table: NDArray[np.float32] = values.reshape(3, 256).astype(np.float32)

    def bytes_of(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) to (h, w, 3)."""
        pixels = self._run(picture, do_rescale=False, do_normalize=False)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) != 3:
            raise EnvironmentFault(
                f"{type(self._processor).__name__} does not scale pictures as bytes, but to "
                f"{pixels.shape} {pixels.dtype}",
                hint="take a model with an ordinary image processor",
            )
        return np.moveaxis(pixels, 0, -1)

    def _run(self, picture: NDArray[np.uint8], **options: bool) -> NDArray[Any]:
        """(3, h, w) of one picture."""
        answer = self._processor([picture], input_data_format="channels_last", **options)
        pixels = answer["pixel_values"][0]
        # A video processor answers with a list of frames.
        return np.asarray(pixels[0] if isinstance(pixels, list) else pixels)


class HfVisionEncoder:
    """A picture net; see `extractors.spec.VisionEncoder`.

    Args:
        net: The loaded net.
        model: What it is.
        preparer: Its preprocessing.
        window: Frames of a window; a video net that takes fewer is given some, spread evenly.
        device: Where the net is.
        threads: CPU cores to use; None takes torch's number of threads.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        net: nn.Module,
        model: HfModel,
        preparer: PicturePreparer,
        *,
        window: int,
        device: torch.device,
        threads: int | None = None,
    ) -> None:
        self.spec = model.spec
        self._net = net
        self._family = model.family
        self._preparer = preparer
        self._table = torch.from_numpy(preparer.table).to(device)
        whole = model.family.unit == "window"
        self._shape = (*((window,) if whole else ()), *preparer.size, 3)
        self._places: NDArray[np.int64] | None = None  # frames of a window that are seen; all
        if whole and (taken := model.family.clip_frames(model.folder.config)) != window:
            self._places = even_frames(window, taken)
        self._run = Runner(
            self._forward,
            device=device,
            threads=threads,
            cpu_chunk=1 if whole else 8,
            device_chunk=8 if whole else 128,
        )
        self._pool = preparing_pool(threads)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The video's own size: frames are scaled by `prepare`."""
        return width, height

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, H, W, 3) RGB frames to (n, h, w, 3), scaled and cut by the model's processor."""
        return np.stack(list(self._pool.map(self._preparer.bytes_of, frames)))

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode frames out of `prepare`: (N, h, w, 3), or (N, T, h, w, 3) for a video net."""
        if frames.shape[1:] != self._shape or frames.dtype != np.uint8:
            wanted = ", ".join(map(str, self._shape))
            raise ValueError(
                f"frames must be (N, {wanted}) uint8, got {frames.shape} {frames.dtype}"
            )
        seen = frames if self._places is None else frames[:, self._places]
        (embeddings,) = self._run(seen)
        return Encoded(embeddings, None)

    def _forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        # Channel by channel: the table of one is a vector, and an index of bytes would be a mask.
        pixels = torch.stack(
            [row[frames[..., channel].int()] for channel, row in enumerate(self._table)], dim=-3
        )
        answer = self._net(pixel_values=pixels)
        return (pool(answer, self._family),)


def load_hf_vision(
    model: HfModel, device: torch.device, *, grid: WindowGrid, threads: int | None = None
) -> HfVisionEncoder:
    """Load a picture net and its processor.

    Args:
        model: What it is and where it lies.
        device: Where it runs.
        grid: Where windows lie.
        threads: CPU cores to use; None takes torch's number of threads.

    Raises:
        EnvironmentFault: The package ``transformers`` or Pillow is missing, or the model's files
            are damaged or do not belong together.
    """
    processor, net = load_encoder(
        model, "image processor", "AutoImageProcessor", device=device, backend="pil"
    )
    if getattr(processor, "backend", None) != "pil":
        raise EnvironmentFault(
            f"{type(processor).__name__} of {model.folder.path} scales pictures without Pillow, so "
            "that features would depend on what is installed",
            hint=f"{INSTALL}; if that is there, take another model",
        )
    preparer = PicturePreparer(processor)
    _check_side(net, model, preparer)
    return HfVisionEncoder(net, model, preparer, window=grid.window, device=device, threads=threads)


def _check_side(net: nn.Module, model: HfModel, preparer: PicturePreparer) -> None:
    config: Any = net.config
    wanted = config.image_size
    sides = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted, wanted)
    if model.family.fixed_side and sides != preparer.size:
        height, width = preparer.size
        raise EnvironmentFault(
            f"the processor in {model.folder.path} makes pictures of {width}x{height}, the net "
            f"takes {sides[1]}x{sides[0]}",
            hint="the two do not belong together: download the model again",
        )
