"""Whether a CLASP's agreement, anchors and activation lie where the true events are.

What an mAP does not tell: a model may localise badly because its anchors are in the background,
because its agreement means nothing, or because its activation does not rise in its events.

Shapes: T steps, K classes, N anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from extractors.windows import WindowGrid
from model.anchors import Anchors
from model.localisation import VideoActivation
from pipeline.core.events import Event

Mask = NDArray[np.bool_]


@dataclass(slots=True)
class AnchorPlaces:
    """Collected video by video; every figure is a mean over videos that have what it needs.

    A step is true where its centre lies in a true event of any class, both ends included. Videos
    without a true step, or without another, tell nothing of places and are left out.

    Attributes:
        base: Share of true steps.
        wide: Share of true steps among the anchors of the whole video.
        near: Share of true steps among the anchors of windows.
        agreement: Probability that a true step has more agreement than another (AUC).
        activation: Likewise of a class that is in the video, its activation and its own events; one
            value for each such class.
        inside: Mean activation of such a class in its own events.
        outside: Mean activation of such a class elsewhere in the video. High, and the class is
            spread over videos that it is in, even where the order of their steps is right.
    """

    base: list[float] = field(default_factory=list)
    wide: list[float] = field(default_factory=list)
    near: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    activation: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)

    def add(
        self,
        said: VideoActivation,
        anchors: Anchors | None,
        events: Sequence[Event],
        classes: Sequence[str],
        grid: WindowGrid,
    ) -> None:
        """Take one video.

        Args:
            said: What the model says of it.
            anchors: Of it alone (B = 1); None where the model has none.
            events: The true ones.
            classes: Names of the K classes.
            grid: Where the steps lie.
        """
        there = said.valid.numpy()
        times = grid.centres(len(there))
        of_class = {
            label: _inside(times, [event for event in events if event.label == label])
            for label in {event.label for event in events}
        }
        for label, inside in of_class.items():
            values = said.activation[:, classes.index(label)].float().numpy()
            own, rest = values[inside & there], values[~inside & there]
            if len(own) and len(rest):
                self.activation += _auc(values[there], inside[there])
                self.inside.append(float(own.mean()))
                self.outside.append(float(rest.mean()))
        true = _inside(times, events)
        if not true[there].any() or true[there].all():
            return
        self.base.append(float(true[there].mean()))
        self.agreement += _auc(said.agreement.float().numpy()[there], true[there])
        if anchors is not None:
            self.wide += _share(true, anchors.index[0], anchors.valid[0] & ~anchors.is_local)
            self.near += _share(true, anchors.index[0], anchors.valid[0] & anchors.is_local)

    def to_json(self) -> dict[str, Any]:
        """The means as plain values; none where nothing was there to measure."""
        return {
            "videos": len(self.base),
            "true_steps": _mean(self.base),
            "global_anchors_true": _mean(self.wide),
            "local_anchors_true": _mean(self.near),
            "agreement_auc": _mean(self.agreement),
            "activation_auc": _mean(self.activation),
            "activation_inside": _mean(self.inside),
            "activation_outside": _mean(self.outside),
        }

    def format_table(self) -> str:
        """The means as text."""
        rows = [
            ("steps in a true event", _mean(self.base), "{:.0%}".format),
            ("anchors of the whole video there", _mean(self.wide), "{:.0%}".format),
            ("anchors of windows there", _mean(self.near), "{:.0%}".format),
            ("agreement, AUC within a video", _mean(self.agreement), "{:.2f}".format),
            ("activation of a class, AUC within a video", _mean(self.activation), "{:.2f}".format),
            ("activation of a class in its events", _mean(self.inside), "{:.2f}".format),
            ("activation of a class elsewhere", _mean(self.outside), "{:.2f}".format),
        ]
        lines = [
            f"{name:<42}{'-' if value is None else show(value):>8}" for name, value, show in rows
        ]
        return "\n".join([*lines, f"means over {len(self.base)} videos"])


def _inside(times: NDArray[np.float64], events: Sequence[Event]) -> Mask:
    """(T,) whether a time lies in any of the events."""
    starts = np.array([event.start for event in events]).reshape(-1, 1)
    ends = np.array([event.end for event in events]).reshape(-1, 1)
    inside: Mask = np.any((starts <= times) & (times <= ends), axis=0)
    return inside


def _share(true: Mask, index: Tensor, chosen: Tensor) -> list[float]:
    """Share of true steps among the chosen ones; nothing where none is chosen."""
    steps = index[chosen].numpy()
    return [float(true[steps].mean())] if len(steps) else []


def _auc(values: NDArray[np.float32], true: Mask) -> list[float]:
    """Area under the ROC curve, equal values counting half; nothing where one side is missing."""
    yes, no = values[true], np.sort(values[~true])
    if not len(yes) or not len(no):
        return []
    below, not_above = (np.searchsorted(no, yes, side) for side in ("left", "right"))
    return [float((below + not_above).mean() / (2 * len(no)))]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
