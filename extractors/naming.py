"""Which names of backbones are shown to people, and in what words the others are hinted at.

Every pair of nets stands in the table once for each grid, and VGGish once for each position of its
switches too: a list of all would hold ten names of the same nets.
"""

from __future__ import annotations

from collections.abc import Iterable

from extractors.grids import UNAV_PREFIX, split_name
from extractors.i3d_vggish_spec import VGGISH, VGGISH_VARIANTS

_SWITCHED = tuple(f"-{name}" for name in VGGISH_VARIANTS if name != VGGISH)

HOW_TO_CHOOSE = (
    f"{UNAV_PREFIX}NAME: the same on UnAV-100's grid; "
    f"…-{VGGISH}[-linear][-pca|-pca-rounded]: without VGGish's last ReLU, with its post-processing"
)


def plain_names(names: Iterable[str]) -> list[str]:
    """The names that leave the grid and VGGish's switches as they are by default."""
    return [name for name in names if not split_name(name)[0] and not name.endswith(_SWITCHED)]
