"""The parts of CLASP without training, changed one at a time, for `workflows.bench.semireal`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from model.anchored import AnchorSettings
from workflows.detection.agreement import AgreementScorer, AgreementSettings
from workflows.detection.anchored import AnchoredScorer, AnchoredSettings
from workflows.detection.joint_classes import JointTable
from workflows.detection.joint_scan import RowScorer

Scorers = Callable[[], RowScorer]
"""Makes a fresh scorer, which reports events of any score."""

ANCHORS: Mapping[str, AnchorSettings] = MappingProxyType(
    {
        "propagation": AnchorSettings(),
        "no propagation": AnchorSettings(propagate=False),
        "temperature 0.03": AnchorSettings(temperature=0.03),
        "temperature 0.3": AnchorSettings(temperature=0.3),
        "global anchors only": AnchorSettings(scope="global"),
        "local anchors only": AnchorSettings(scope="local"),
    }
)
"""What is changed of the anchors; the first is the detector as it is."""


def anchored_scorers(
    table: JointTable, scores: AgreementSettings, settings: AnchoredSettings
) -> Scorers:
    """CLASP without training on the agreement detector's scores.

    Args:
        table: Joint classes.
        scores: Calibration of the nets' scores.
        settings: Anchors and recipe; its smallest score is not used.
    """
    nets = AgreementScorer(table, scores)
    loose = replace(settings, min_score=settings.recipe.min_score)
    return lambda: AnchoredScorer(table.labels, nets.probabilities, loose)


def clasp_parts(table: JointTable, scores: AgreementSettings) -> dict[str, Scorers]:
    """Scorers by name: all `ANCHORS`, the first two also with the agreement detector's recipe."""
    own = AnchoredSettings()
    made = {
        name: anchored_scorers(table, scores, replace(own, anchors=anchors))
        for name, anchors in ANCHORS.items()
    }
    for name in list(ANCHORS)[:2]:
        other = replace(own, anchors=ANCHORS[name], recipe=scores.recipe)
        made[f"{name}, recipe of agreement"] = anchored_scorers(table, scores, other)
    return made
