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
    from workflows.detection.run import Detector


def load_detector(
    model: str | os.PathLike[str] | None = None,
    *,
    method: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
    labels: Sequence[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Detector:
    """Load a detector once, to call it on any number of files.

    Args:
        model: A trained checkpoint (``.safetensors`` with its JSON card beside it). Without one,
            a training-free detector is used: events are where picture and sound name the same
            class.
        method: Without a checkpoint, the training-free method by its name; see
            `workflows.detection.run.METHODS`.
        backbone: Without a checkpoint, the encoders; the method's own choice when omitted. Open
            vocabulary takes ``hf:<vision>+<audio>``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; all that the detector knows when omitted. Without a model and a
            method, any text: an encoder of pictures and texts and one of sounds and texts look
            for it (open vocabulary).
        weights_dir: Folder in which the encoders' weights are looked for first.
        offline: True never touches the network: weights that are not on this machine are an error.
            When omitted, the variable ``PIPELINE_OFFLINE`` decides.

    Returns:
        A callable: path of a media file -> `pipeline.Detections`, times in seconds on the
        file's own clock.

    Raises:
        EnvironmentFault: Weights or ffmpeg are missing, and cannot be fetched.
        CheckpointError: The checkpoint cannot be read.
        UsageError: A label is not known to the detector.
    """
    from workflows.detection.run import load_detector as load

    return load(
        model,
        method=method,
        backbone=backbone,
        device=device,
        labels=labels,
        weights_dir=weights_dir,
        offline=offline,
    )
