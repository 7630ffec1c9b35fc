"""Look for values in stored features that are no finite numbers."""

from __future__ import annotations

import numpy as np

from extractors.features import Features

BLOCK_STEPS = 4096  # rows that are looked at together: a long video stays on disk


def first_bad_step(features: Features, name: str) -> int | None:
    """First step of an array with a value that is NaN or infinite; None where there is none.

    Args:
        features: Of one video; may be memory-mapped.
        name: Name of a (T, D) array.
    """
    for first in range(0, features.steps, BLOCK_STEPS):
        finite = np.isfinite(features[name][first : first + BLOCK_STEPS]).all(axis=1)
        if not finite.all():
            return first + int(np.argmin(finite))
    return None
