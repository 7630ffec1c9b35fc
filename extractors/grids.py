"""The grids that every backbone runs on, and how a backbone's name says which.

A plain name (``lite``) means the project's own grid. With ``unav-`` in front (``unav-lite``,
``unav-onepeace``, ``unav-hf:<vision>+<audio>``) it means the same nets on the grid of UnAV-100's
published features. So one word names nets and grid, for commands, recipes, stores and checkpoints.

Source of UnAV-100's grid: the UnAV repository (25 fps, 24 frames, stride 8, so 0.96 s every 0.32 s
for picture and sound); its extractor counts a window only where one more frame follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from extractors.windows import WindowGrid

UNAV_PREFIX = "unav-"
OWN_GRID = WindowGrid()
UNAV_GRID = WindowGrid(fps=Fraction(25), window=24, stride=8, lookahead=1)

# What stands before a backbone's name -> the grid that it is run on.
GRIDS: Mapping[str, WindowGrid] = MappingProxyType({"": OWN_GRID, UNAV_PREFIX: UNAV_GRID})


def split_name(name: str) -> tuple[str, str]:
    """What a backbone's name says of the grid, a key of `GRIDS`, and the name of the nets."""
    prefix = UNAV_PREFIX if name.startswith(UNAV_PREFIX) else ""
    return prefix, name[len(prefix) :]


def grid_of(name: str) -> WindowGrid:
    """The grid that a backbone's name names."""
    return GRIDS[split_name(name)[0]]
