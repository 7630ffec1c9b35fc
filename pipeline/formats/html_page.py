"""The HTML page as an output format; the page itself is made in `pipeline.report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.events import Detections


def render(detections: Sequence[Detections], destination: Path | None = None) -> str:
    """One page; videos are referred to relative to ``destination``."""
    from pipeline.report import render_page

    return render_page(detections, folder=destination.parent if destination else None)
