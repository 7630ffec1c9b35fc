"""Curves as CSV: one row a step, one column a class; what the HTML page draws, as numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections
from pipeline.formats.cells import guard

TIME = "seconds"


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """A header and the rows of one video.

    The first column is the centre of the step; the others are the activation of the classes that
    the detector keeps a curve of, in [0, 1], and the agreement, where it has one. A video without
    curves has the header alone.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    for entry in detections:
        curves = entry.curves
        rows.writerow((TIME, *(map(guard, curves.labels) if curves is not None else ())))
        if curves is not None:
            for second, values in zip(curves.times, curves.values, strict=True):
                rows.writerow((f"{second:.3f}", *(f"{value:.4f}" for value in values)))
    return text.getvalue()
