"""Sizes and offsets of chosen windows, gathered over many videos.

Shapes: B videos, H heads, n windows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from extractors.windows import WindowGrid
from model.windows import ChosenWindows
from pipeline.report.run_view import QUANTILES, WindowView

Place = tuple[str, str, str, int]  # asks, answers, part, level from 0


class WindowTally:
    """Collects what `model.windows.watch_windows` finds.

    Args:
        grid: Where the steps of level 0 lie.
    """

    def __init__(self, grid: WindowGrid) -> None:
        self._step_seconds = grid.step_seconds
        self._found: dict[Place, list[NDArray[np.float32]]] = {}
        self._base: dict[Place, int] = {}

    def add(self, windows: Iterable[ChosenWindows]) -> None:
        """Take the windows of one forward pass; those over padding do not count."""
        for entry in windows:
            place = (entry.asks, entry.answers, entry.part, entry.level)
            pairs = np.stack([entry.size.cpu().numpy(), entry.offset.cpu().numpy()])
            kept = pairs.transpose(1, 3, 2, 0)[entry.valid.cpu().numpy()]  # (windows, H, 2)
            self._found.setdefault(place, []).append(kept)
            self._base[place] = entry.base

    def views(self) -> tuple[WindowView, ...]:
        """Quantiles of each block, level and head."""
        views = []
        for place in sorted(self._found, key=lambda place: (place[0] != "vision", place[2:])):
            values = np.concatenate(self._found[place])
            if len(values) == 0:
                continue
            asks, answers, part, level = place
            for head in range(values.shape[1]):
                size, offset = np.quantile(values[:, head], QUANTILES, axis=0).T
                views.append(
                    WindowView(
                        asks=asks,
                        answers=answers,
                        part=part,
                        level=level + 1,
                        head=head + 1,
                        base=self._base[place],
                        step_seconds=self._step_seconds * 2**level,
                        size=tuple(size.tolist()),
                        offset=tuple(offset.tolist()),
                        count=len(values),
                    )
                )
        return tuple(views)
