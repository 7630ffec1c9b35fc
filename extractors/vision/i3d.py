"""I3D as an encoder of windows: 1024 numbers from RGB, and 1024 from optical flow.

On a CPU, overlapping windows share what they can (`extractors.vision.i3d_overlap`); on any other
device they go through the net in batches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.checkpoints.check import refuse_other_net
from extractors.checkpoints.load import load_state
from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.tensorflow import DATA_SUFFIX, index_name, read_tf_checkpoint
from extractors.i3d_vggish_spec import I3D_RGB, I3D_RGB_WEIGHTS, I3D_VARIANTS, Padding
from extractors.runner import Runner
from extractors.spec import Encoded, EncoderSpec, WeightsFile
from extractors.vision.i3d_keys import (
    BN_EPS_VIDEO_FEATURES,
    canonical_shapes,
    fold,
    recognise,
    to_canonical,
)
from extractors.vision.i3d_net import LEAST_FRAMES, SIDE, WIDTH, I3DNet
from extractors.vision.i3d_overlap import SharedI3D, to_net
from extractors.vision.raft_flow import FlowEstimator, load_raft
from extractors.vision.resize import resize_and_crop
from extractors.weights.check import describe_weights
from extractors.weights.find import find_weights
from extractors.windows import WindowGrid
from pipeline.core.errors import EnvironmentFault

SHORTER_SIDE = 256
RGB, FLOW = 3, 2  # channels
LONGEST_RUN = 32  # windows that one core takes after each other, sharing


class I3DStream:
    """One net, RGB or flow, over the windows of a stretch.

    Args:
        net: The loaded net.
        grid: Window and stride; the rate does not matter.
        device: Where it runs.
        threads: CPU cores to use; None takes torch's number of threads.

    Raises:
        ValueError: Windows of fewer than 10 frames.
    """

    def __init__(
        self, net: I3DNet, *, grid: WindowGrid, device: torch.device, threads: int | None = None
    ) -> None:
        if grid.window < LEAST_FRAMES:
            raise ValueError(f"I3D needs windows of {LEAST_FRAMES} frames, not {grid.window}")
        self._grid = grid
        self._on_cpu = device.type == "cpu"
        self._threads = threads or torch.get_num_threads()
        if self._on_cpu:
            net = net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._net = net.eval().to(device)
        self._shared = SharedI3D(self._net, window=grid.window, stride=grid.stride)
        self._run = Runner(
            self._forward, device=device, threads=threads, cpu_chunk=1, device_chunk=16
        )

    def windows(self, frames: NDArray[np.generic]) -> NDArray[np.float32]:
        """Features (N, 1024) of windows (N, T, 224, 224, C) with values 0 .. 255."""
        if not len(frames):
            return np.zeros((0, WIDTH), np.float32)
        (features,) = self._run(frames)
        return features

    def stretch(self, frames: NDArray[np.generic], count: int) -> NDArray[np.float32]:
        """Features (count, 1024) of windows that begin every stride of a stretch (F, 224, 224, C).

        The same bits as `windows` gives on a CPU.
        """
        if not self._on_cpu or not count:
            return self.windows(cut_windows(frames, count, self._grid))
        runs = np.array_split(np.arange(count), max(-(-count // LONGEST_RUN), self._threads))
        grid = self._grid
        parts = [
            frames[run[0] * grid.stride : run[-1] * grid.stride + grid.window]
            for run in runs
            if len(run)
        ]
        return np.concatenate([features for (features,) in self._run.each(parts)])

    def _forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """A stretch (F, 224, 224, C), or a batch of windows (N, T, 224, 224, C)."""
        if not self._on_cpu:
            return (self._net(to_net(frames)),)
        stretch = frames[0] if frames.ndim == 5 else frames
        count = (len(stretch) - self._grid.window) // self._grid.stride + 1
        return (self._shared(stretch, count),)


class I3DEncoder:
    """I3D on RGB as a window encoder; see `extractors.spec.VisionEncoder`.

    Args:
        stream: The net.
        spec: Its description.
        grid: Where windows lie.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, stream: I3DStream, spec: EncoderSpec, *, grid: WindowGrid) -> None:
        self.spec = spec
        self._stream = stream
        self._grid = grid

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The video's own size: frames are scaled by `prepare`, as the public extractor does."""
        return width, height

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, H, W, 3) to the middle (n, 224, 224, 3) of frames with a shorter side of 256."""
        return resize_and_crop(frames, shorter_side=SHORTER_SIDE, crop=SIDE)

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode (N, window, 224, 224, 3) RGB frames out of `prepare`."""
        _check(frames, self._grid.window, prepared=(SIDE, SIDE))
        return Encoded(self._stream.windows(frames), None)

    def embed_stretch(self, samples: NDArray[np.uint8], count: int) -> Encoded:
        """Encode windows that follow each other; see `extractors.spec.StretchEncoder`."""
        return Encoded(self._stream.stretch(samples, count), None)


class I3DFlowEncoder:
    """I3D on RGB and on flow, side by side; see `extractors.spec.VisionEncoder`.

    Args:
        rgb: The net that sees pictures.
        flow: The net that sees flow.
        estimator: Where flow comes from.
        spec: Description of both together.
        grid: Where windows lie.
    """

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        rgb: I3DStream,
        flow: I3DStream,
        estimator: FlowEstimator,
        spec: EncoderSpec,
        *,
        grid: WindowGrid,
    ) -> None:
        self.spec = spec
        self._rgb, self._flow, self._estimator = rgb, flow, estimator
        self._grid = grid

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """The video's own size: frames are scaled by `prepare`, as the public extractor does."""
        return width, height

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, H, W, 3) to a shorter side of 256; flow needs what RGB cuts off."""
        return resize_and_crop(frames, shorter_side=SHORTER_SIDE)

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        """Encode (N, window + 1, H, W, 3) RGB frames out of `prepare`."""
        _check(frames, self._grid.window + 1)
        return _side_by_side([self._features(window, 1) for window in frames], self.spec.dim)

    def embed_stretch(self, samples: NDArray[np.uint8], count: int) -> Encoded:
        """Encode windows that follow each other; see `extractors.spec.StretchEncoder`."""
        return _side_by_side([self._features(samples, count)], self.spec.dim)

    def _features(self, frames: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        pictures = resize_and_crop(frames[:-1], shorter_side=SHORTER_SIDE, crop=SIDE)
        (flows,) = self._estimator(frames[None])
        moved = np.ascontiguousarray(np.moveaxis(flows, 1, -1))
        return np.concatenate(
            [self._rgb.stretch(pictures, count), self._flow.stretch(moved, count)], axis=1
        )


def cut_windows(frames: NDArray[np.generic], count: int, grid: WindowGrid) -> NDArray[np.generic]:
    """Windows (count, window, ...) that begin every stride of a stretch of frames (F, ...)."""
    begins = np.arange(count) * grid.stride
    return frames[begins[:, None] + np.arange(grid.window)]


def load_i3d(
    device: torch.device,
    *,
    grid: WindowGrid,
    spec: EncoderSpec = I3D_RGB,
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> I3DEncoder | I3DFlowEncoder:
    """Load what a description names: I3D on RGB, or on RGB and flow.

    Args:
        device: Where it runs.
        grid: Where windows lie.
        spec: Its description; with ``more_weights``, those of the flow's I3D and of RAFT, and the
            indices of TensorFlow's checkpoints. Its name says which variant of I3D is built.
        threads: CPU cores to use; None takes torch's number of threads.
        weights_dir: Folder of the weights.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """

    def stream(channels: int, weights: WeightsFile) -> I3DStream:
        net = load_i3d_net(
            weights,
            channels=channels,
            bn_eps=variant.bn_eps,
            padding=variant.padding,
            index=indices.get(weights.file),
            weights_dir=weights_dir,
        )
        return I3DStream(net, grid=grid, device=device, threads=threads)

    variant = I3D_VARIANTS[spec.name]
    indices = _indices(spec.files)
    rgb_weights, *more = (file for file in spec.files if file not in indices.values())
    rgb = stream(RGB, rgb_weights)
    if not more:
        return I3DEncoder(rgb, spec, grid=grid)
    flow_weights, raft_weights = more
    estimator = FlowEstimator(
        load_raft(device, weights=raft_weights, weights_dir=weights_dir),
        device=device,
        threads=threads,
    )
    return I3DFlowEncoder(rgb, stream(FLOW, flow_weights), estimator, spec, grid=grid)


def load_i3d_net(
    weights: WeightsFile = I3D_RGB_WEIGHTS,
    *,
    channels: int = RGB,
    bn_eps: float = BN_EPS_VIDEO_FEATURES,
    padding: Padding = "static",
    index: WeightsFile | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> I3DNet:
    """Load one net from a checkpoint of any of the three public families.

    Args:
        weights: The checkpoint.
        channels: 3 for the net that sees RGB, 2 for flow.
        bn_eps: Batch norm's epsilon; UnAV-100's features want 1e-5, the original 1e-3.
        padding: ``static`` for UnAV-100's features, ``same`` for the original.
        index: Of a TensorFlow checkpoint; None looks for it beside the checkpoint.
        weights_dir: Folder in which the checkpoint is looked for first.

    Raises:
        EnvironmentFault: The weights are missing, damaged or of another net.
    """
    path = find_weights(weights, weights_dir=weights_dir)
    index_path = None if index is None else find_weights(index, weights_dir=weights_dir)
    state = _read(path, weights, index_path)
    scheme = recognise(set(state))
    canonical = to_canonical(state, scheme)
    found = {name: tuple(value.shape) for name, value in canonical.items()}
    known = set(scheme.keys.values())
    extra = (name for name in state if name not in known)
    found |= {name: () for name in extra if not name.endswith("num_batches_tracked")}
    refuse_other_net(path, canonical_shapes(channels), found, weights)
    with torch.device("meta"):
        net = I3DNet(channels, padding=padding)
    net.load_state_dict(fold(canonical, bn_eps=bn_eps), strict=True, assign=True)
    return net.eval().requires_grad_(False)


def _indices(files: Sequence[WeightsFile]) -> dict[str, WeightsFile]:
    """Indices among some files, by the names of the files with the values."""
    by_name = {file.file: file for file in files}
    values = (name for name in by_name if name.endswith(DATA_SUFFIX))
    return {name: by_name[index_name(name)] for name in values}


def _read(path: Path, weights: WeightsFile, index_path: Path | None) -> dict[str, Tensor]:
    if not path.name.endswith(DATA_SUFFIX):
        return load_state(path, weights, "state_dict")
    try:
        arrays = read_tf_checkpoint(path, index_path)
    except CheckpointFault as error:
        raise EnvironmentFault(
            f"{path} is refused: {error}", hint=f"it should be {describe_weights(weights)}"
        ) from error
    except OSError as error:
        raise EnvironmentFault(f"{path}: the weights cannot be read ({error.strerror})") from error
    return {name: torch.tensor(array) for name, array in arrays.items()}


def _side_by_side(rows: list[NDArray[np.float32]], dim: int) -> Encoded:
    return Encoded(np.concatenate([np.zeros((0, dim), np.float32), *rows]), None)


def _check(
    frames: NDArray[np.uint8], window: int, *, prepared: tuple[int, int] | None = None
) -> None:
    shape = frames.shape
    window_fits = frames.ndim == 5 and shape[1] == window and shape[4] == 3
    size_fits = shape[2:4] == prepared if prepared else min(shape[2:4]) == SHORTER_SIDE
    if window_fits and size_fits and frames.dtype == np.uint8:
        return
    size = "x".join(map(str, prepared)) if prepared else f"a shorter side of {SHORTER_SIDE}"
    raise ValueError(
        f"frames must be (N, {window}, H, W, 3) uint8 with {size}, got {shape} {frames.dtype}"
    )
