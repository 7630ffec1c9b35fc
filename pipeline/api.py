"""The Python API in three lines.

import pipeline
detector = pipeline.load_detector()
detections = detector("my_video.mp4")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflows.detect import Detector


def load_detector(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    labels: Sequence[str] | None = None,
) -> Detector:
    """Load a detector once, to call it on any number of files.

    Args:
        model: A trained checkpoint (``.safetensors`` with its JSON card beside it). Without one,
            the training-free agreement detector is used: events are where the picture net and
            the sound net name the same class.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; all that the detector knows when omitted.

    Returns:
        A callable: path of a media file -> `pipeline.Detections`, times in seconds on the
        file's own clock.

    Raises:
        EnvironmentFault: Weights or ffmpeg are missing.
        CheckpointError: The checkpoint cannot be read.
        UsageError: A label is not known to the detector.
    """
    from workflows.detect import load_detector as load

    return load(model, device=device, labels=labels)
