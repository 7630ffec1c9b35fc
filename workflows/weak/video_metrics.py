"""Average precision of whole videos: how well a model knows what happens, whenever it does.

The measure that a weakly supervised model may be chosen by, since it asks for no segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workflows.metrics import interpolated_precision


def video_precision(
    truth: Mapping[str, Sequence[str]],
    scores: Mapping[str, NDArray[np.floating]],
    classes: Sequence[str],
) -> dict[str, float]:
    """Average precision of each class that any video has.

    Equal scores are ordered by the name of the video, so that the order of the input never matters.

    Args:
        truth: Classes of each video.
        scores: (K,) score of each class in each of these videos.
        classes: Names of the K classes.
    """
    names = sorted(truth)
    table = np.stack([np.asarray(scores[name], dtype=np.float64) for name in names])
    order = np.argsort(-table, axis=0, kind="stable")
    found = {}
    for column, label in enumerate(classes):
        has = np.array([label in truth[name] for name in names])
        if has.any():
            hits = has[order[:, column]]
            found[label] = float(interpolated_precision(hits[:, None], int(has.sum()))[0])
    return found
