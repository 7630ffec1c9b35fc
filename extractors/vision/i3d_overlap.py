"""I3D over windows that overlap, without computing twice what they share; exact.

A window sees zeros beyond its first and last frame, so that near its borders the layers answer
otherwise than in a neighbouring window, and from the second convolution over time on nearly
everywhere. What can be shared is the first convolution: seven taps in time, of which a window drops
those that lie outside of it. For a place in time, the taps are cut into parts where any window of
the grid would begin or end; each part is computed once, and the answer of a window is the sum of
the parts that it sees. Two layers that do not look in time follow at once.

The cuts depend on the grid alone, so that a window's feature has the same bits whichever windows
were computed with it.

For windows of 16 frames every 4, a window costs a quarter of its first convolution; for 24 every 8,
a third.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from extractors.vision.i3d_net import SIDE, Conv, I3DNet, convolve, pads

TAPS = 7
STRIDE = 2
Span = tuple[int, int]  # taps low .. high - 1


class SharedI3D:
    """Features of the windows of one stretch of frames.

    Args:
        net: The loaded net.
        window: Frames of a window.
        stride: Frames from one window to the next.
    """

    def __init__(self, net: I3DNet, *, window: int, stride: int) -> None:
        first = net.layers["conv3d_1a_7x7"]
        assert isinstance(first, Conv)
        self._net = net
        self._window, self._stride = window, stride
        self._front, behind = pads(window, TAPS, STRIDE, net.padding)
        self._outputs = (window + self._front + behind - TAPS) // STRIDE + 1
        self._weight, self._bias = first.weight, first.bias
        self._cuts = lru_cache(maxsize=None)(self._find_cuts)

    def __call__(self, frames: Tensor, windows: int) -> Tensor:
        """Features of all windows of a stretch.

        Args:
            frames: (F, 224, 224, C) values 0 .. 255 or so of any type; window n begins at frame
                n * stride.
            windows: How many windows there are.

        Returns:
            (windows, 1024).
        """
        known: OrderedDict[int, dict[Span, Tensor]] = OrderedDict()
        features = []
        for n in range(windows):
            begin = n * self._stride
            while known and next(iter(known)) < begin - self._front:
                known.popitem(last=False)
            answers = []
            for place, span in self._places(begin):
                if place not in known:
                    known[place] = self._answers(frames, place, self._spans(place, windows))
                answers.append(known[place][span])
            features.append(self._net.behind_stem(torch.cat(answers, dim=2)))
        return torch.cat(features)

    def _places(self, begin: int) -> Iterator[tuple[int, Span]]:
        """Each answer of a window: the frame under the first of all taps, and the taps it sees."""
        for j in range(self._outputs):
            place = begin + STRIDE * j - self._front
            yield place, (max(0, begin - place), min(TAPS, begin + self._window - place))

    def _spans(self, place: int, windows: int) -> list[Span]:
        """The different taps that the windows of the stretch see at a place."""
        first = max(0, -(-(place + self._front - STRIDE * (self._outputs - 1)) // self._stride))
        last = min(windows - 1, (place + self._front) // self._stride)
        spans = {
            span
            for n in range(first, last + 1)
            for other, span in self._places(n * self._stride)
            if other == place
        }
        return sorted(spans)

    def _find_cuts(self, phase: int) -> tuple[int, ...]:
        """Taps at which any window of an endless grid begins or ends, at places of one phase."""
        reach = (self._window + TAPS) // self._stride + 2
        cuts = {0, TAPS}
        for n in range(-reach, reach + 1):
            for place, span in self._places(n * self._stride):
                cuts.update(span if place == phase else ())
        return tuple(sorted(cuts))

    def _answers(self, frames: Tensor, place: int, spans: Sequence[Span]) -> dict[Span, Tensor]:
        """(1, 64, 1, 56, 56) of each span, behind the layers that do not look in time."""
        cuts = self._cuts(place % self._stride)
        parts: dict[int, Tensor] = {}
        answers = {}
        for span in spans:
            total: Tensor | None = None
            for low, high in pairwise(cuts):
                if span[0] <= low and high <= span[1]:
                    if low not in parts:
                        parts[low] = self._part(frames[place + low : place + high], low, high)
                    total = parts[low] if total is None else total + parts[low]
            assert total is not None
            answers[span] = self._finish(total)
        return answers

    def _part(self, frames: Tensor, low: int, high: int) -> Tensor:
        """What the taps ``low`` .. ``high`` - 1 add, (1, 64, 1, 112, 112)."""
        rows = pads(SIDE, TAPS, STRIDE, self._net.padding)
        x = F.pad(to_net(frames), (*rows, *rows))
        weight = self._weight[:, :, low:high].contiguous(memory_format=torch.channels_last_3d)
        return convolve(x, weight, None, (1, STRIDE, STRIDE))

    def _finish(self, x: Tensor) -> Tensor:
        assert self._bias is not None
        x = F.relu_(x + self._bias[:, None, None, None])
        for name in ("maxpool3d_2a_3x3", "conv3d_2b_1x1"):
            x = self._net.layers[name](x)
        return x


def to_net(frames: Tensor) -> Tensor:
    """(..., T, H, W, C) values 0 .. 255 to (..., C, T, H, W) in [-1, 1], as the net wants them.

    The flow's 256, one more than a byte holds, becomes a little more than 1.
    """
    x = frames.movedim(-1, -4).float()
    if x.ndim == 4:
        x = x[None]
    return 2 * x / 255 - 1
