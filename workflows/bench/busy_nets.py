"""I3D RGB and VGGish for `workflows.bench.busy`: on a GPU, or beside a device that is made up.

Nothing is downloaded: weights are random, which takes a device as long as released ones.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors.audio.vggish import VGGishEncoder, VGGishNet
from extractors.i3d_vggish_spec import I3D_VGGISH
from extractors.joint import DEVICE_ROWS, JointBatches
from extractors.spec import AudioEncoder, Backbone, Encoded, EncoderSpec, VisionEncoder
from extractors.vision.i3d import SHORTER_SIDE, I3DEncoder, I3DStream, cut_windows
from extractors.vision.i3d_net import SIDE, I3DNet
from extractors.vision.resize import resize_and_crop
from workflows.bench.backbone_nets import backbone_cases

SPEC = I3D_VGGISH["i3d-rgb-vggish"]
ROWS = 16  # windows of a batch on the device that is made up, as I3D has them on a GPU

Interval = tuple[float, float]


class Watched(Protocol):
    """A device whose work is watched."""

    def intervals(self) -> list[Interval]:
        """Seconds from any zero at which it began and ended a batch, of all so far."""
        ...

    def first_at(self) -> float | None:
        """When it was given its first batch, by `time.perf_counter`; None before."""
        ...


@dataclass(frozen=True, slots=True)
class WatchedNets:
    """Nets, and the device that they run on."""

    backbone: Backbone
    device: Watched


class SimulatedDevice:
    """Works off its batches one after the other, each in the same time, and computes nothing.

    Like a GPU it has a queue: who gives it a batch does not wait, who wants the answer does.

    Args:
        batch_s: Seconds that a batch takes, however full it is.
    """

    def __init__(self, batch_s: float) -> None:
        self.batch_s = batch_s
        self._intervals: list[Interval] = []
        self._one = threading.Lock()

    def launch(self, batch: NDArray[Any]) -> tuple[float, int]:
        """Queue a batch: when its answer will be there, and its number of rows."""
        batch = batch.copy()  # as into the memory from which a GPU copies
        with self._one:
            before = self._intervals[-1][1] if self._intervals else 0.0
            begin = max(time.perf_counter(), before)
            self._intervals.append((begin, begin + self.batch_s))
            return begin + self.batch_s, len(batch)

    @staticmethod
    def collect(launched: tuple[float, int]) -> tuple[NDArray[np.float32], ...]:
        """The answer to each row, nothing; it takes until it is there."""
        there, rows = launched
        time.sleep(max(0.0, there - time.perf_counter()))
        return (np.zeros((rows, 0), np.float32),)

    def intervals(self) -> list[Interval]:
        """See `Watched`."""
        return list(self._intervals)

    def first_at(self) -> float | None:
        """See `Watched`."""
        return self._intervals[0][0] if self._intervals else None


class CudaWatch:
    """Notes in a GPU's queue where a net begins and ends.

    Between the two lie the net's own kernels, and the pauses between them if the processor does not
    queue them fast enough; rows on their way to the GPU and back do not.

    Args:
        device: The GPU.
        nets: What is watched. The watch must be there before they are asked for the first time.
    """

    def __init__(self, device: torch.device, *nets: nn.Module) -> None:
        # With its number: in another thread the current device may be another one.
        self._device = torch.device("cuda", torch.cuda.current_device())
        if device.index is not None:
            self._device = device
        self._zero = torch.cuda.Event(enable_timing=True)
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._first: float | None = None
        self._zero.record(torch.cuda.current_stream(self._device))
        for net in nets:
            net.register_forward_pre_hook(self._begin)
            net.register_forward_hook(self._end)

    def intervals(self) -> list[Interval]:
        """See `Watched`; waits for the GPU."""
        torch.cuda.synchronize(self._device)
        return [
            (self._zero.elapsed_time(begin) / 1e3, self._zero.elapsed_time(end) / 1e3)
            for begin, end in self._marks
        ]

    def first_at(self) -> float | None:
        """See `Watched`."""
        return self._first

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _begin(self, net: nn.Module, inputs: Any) -> None:
        if self._first is None:
            self._first = time.perf_counter()
        begin = self._mark()
        self._marks.append((begin, begin))

    def _end(self, net: nn.Module, inputs: Any, output: Any) -> None:
        # Runners let nets of one process be queued one at a time: the last one is this net's.
        self._marks[-1] = (self._marks[-1][0], self._mark())


def nets_on_gpu(device: torch.device) -> WatchedNets:
    """I3D RGB and VGGish of released size on a GPU."""
    cases = backbone_cases()
    vision, audio = (cases[name].make(device) for name in ("i3d-rgb", "vggish"))
    assert isinstance(vision, I3DNet)
    assert isinstance(audio, VGGishNet)
    grid = SPEC.grid
    seeing = I3DEncoder(I3DStream(vision, grid=grid, device=device), SPEC.vision, grid=grid)
    hearing = VGGishEncoder(audio, SPEC.audio, grid=grid, device=device)
    # Libraries are loaded, kernels chosen and memory reserved with the first batch: no computing.
    seeing.embed(np.zeros((ROWS, grid.window, SIDE, SIDE, 3), np.uint8))
    hearing.embed(np.zeros((DEVICE_ROWS, grid.window_samples + SPEC.audio.overhang), np.float32))
    return WatchedNets(Backbone(SPEC, seeing, hearing), CudaWatch(device, vision, audio))


def nets_made_up(batch_s: float) -> WatchedNets:
    """Pictures as I3D RGB wants them, for a device that takes its time; sound is only decoded."""
    device = SimulatedDevice(batch_s)
    return WatchedNets(Backbone(SPEC, _Pictures(device), _Sounds()), device)


class _Pictures(VisionEncoder):
    """All that the processor does for I3D RGB; what the net says is zeros."""

    class_names: tuple[str, ...] = ()

    def __init__(self, device: SimulatedDevice) -> None:
        self.spec = SPEC.vision
        self._joint = JointBatches(device.launch, device.collect, rows=ROWS)

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        return width, height

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize_and_crop(frames, shorter_side=SHORTER_SIDE, crop=SIDE)

    def embed(self, frames: NDArray[np.uint8]) -> Encoded:
        self._joint(frames)
        return _zeros(self.spec, len(frames))

    def embed_stretch(self, samples: NDArray[np.uint8], count: int) -> Encoded:
        self._joint(cut_windows(samples, count, SPEC.grid))
        return _zeros(self.spec, count)


class _Sounds(AudioEncoder):
    class_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.spec = SPEC.audio

    def embed(self, windows: NDArray[np.float32]) -> Encoded:
        return _zeros(self.spec, len(windows))


def _zeros(spec: EncoderSpec, count: int) -> Encoded:
    return Encoded(np.zeros((count, spec.dim), np.float32), None)
