"""Dense audio-visual event detection on your own videos.

    import pipeline
    detector = pipeline.load_detector()
    events = detector("my_video.mp4").events

Names are loaded on first use: importing this package loads neither torch nor dask.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import load_detector
    from pipeline.core.errors import PipelineError
    from pipeline.core.events import Detections, Event

__all__ = ["Detections", "Event", "PipelineError", "__version__", "load_detector"]

_HOMES = {
    "load_detector": "pipeline.api",
    "Event": "pipeline.core.events",
    "Detections": "pipeline.core.events",
    "PipelineError": "pipeline.core.errors",
}

# Threads of torch that wait for each other shall sleep, not spin: where another program wants a
# core, spinning slows a training step down (docs/benchmarks.md has the figure).
# Torch's thread library reads it when it is loaded, so it must stand here; a set value is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    __version__ = version("davel-pipeline")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Load a public name from its home module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
