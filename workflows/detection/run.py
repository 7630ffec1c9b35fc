"""From a media file to its events: one callable, whatever the detector behind it.

With a trained checkpoint the events come from its network; without one from a training-free method
of `METHODS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from extractors.hf.model import is_hf
from extractors.media.video import ReaderChoice
from extractors.registry import load_backbone
from extractors.spec import Backbone
from extractors.weights.network import network
from model.build import METHODS as TRAINED_METHODS
from pipeline.core.errors import UsageError
from pipeline.core.events import Curves, Detections
from workflows.detection.agreement import ANY_TEXT, AgreementScorer, AgreementSettings
from workflows.detection.joint_classes import JointTable, load_joint_table
from workflows.detection.joint_scan import scan_video
from workflows.labels import known_labels

if TYPE_CHECKING:
    from workflows.detection.open_vocabulary import OpenVocabularyDetector


class Detector(Protocol):
    """Finds the events of media files; loaded once, called on any number of them.

    Attributes:
        name: As it appears in results.
        labels: Classes that it reports.
    """

    name: str
    labels: tuple[str, ...]

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file, by start, in seconds on the file's own clock.

        Raises:
            MediaError: The file cannot be read.
        """
        ...


class AgreementDetector:
    """The training-free detector on raw files.

    Args:
        backbone: Loaded, with nets that name classes.
        table: Joint classes on those nets' class lists.
        settings: Calibration, recipe and smallest score.
        labels: Classes to report; None for all of the table.
        reader: Video reader, as for `extractors.stream.FeatureStream`.
    """

    def __init__(
        self,
        backbone: Backbone,
        table: JointTable,
        *,
        settings: AgreementSettings | None = None,
        labels: Sequence[str] | None = None,
        reader: ReaderChoice = "auto",
    ) -> None:
        self.name = f"agreement ({backbone.spec.name})"
        self.labels = known_labels(labels, table.labels, table.unknown, elsewhere=ANY_TEXT)
        self.settings = settings or AgreementSettings()
        self._backbone = backbone
        self._table = table
        self._reader = reader

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file; see `Detector`."""
        scorer = AgreementScorer(self._table, self.settings)
        found = scan_video(path, self._backbone, scorer, detector=self.name, reader=self._reader)
        wanted = set(self.labels)
        return replace(
            found,
            events=tuple(event for event in found.events if event.label in wanted),
            curves=found.curves and _only(found.curves, self.labels),
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a detector that has no checkpoint.

    Attributes:
        backbone: Whose nets it uses; None for the method's own choice.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; None for all.
        min_score: Events below it are left out; None for the detector's own choice.
        reader: Video reader.
        weights_dir: Folder in which weights are looked for first.
    """

    backbone: str | None
    device: str
    labels: Sequence[str] | None
    min_score: float | None
    reader: ReaderChoice
    weights_dir: str | os.PathLike[str] | None = None


def load_detector(
    model: str | os.PathLike[str] | None = None,
    *,
    method: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
    labels: Sequence[str] | None = None,
    min_score: float | None = None,
    reader: ReaderChoice = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Detector:
    """Load a detector.

    Args:
        model: A trained checkpoint; None for a detector that needs no training.
        method: Without a checkpoint, a name of `METHODS`; when omitted, ``open-vocabulary`` for
            labels and ``agreement`` without them. A checkpoint names its own method; one given
            here must be the same.
        backbone: Of the training-free detectors, None for the method's own choice; a checkpoint
            names its own.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; None for all. Open vocabulary takes any text.
        min_score: Events below it are left out; None for the detector's own choice.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.
        weights_dir: Folder in which the backbone's weights are looked for first.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.

    Raises:
        UsageError: Unknown method, backbone, device or label; a backbone whose nets name no
            classes; another method than the checkpoint's.
        CheckpointError: The checkpoint cannot be read.
        EnvironmentFault: Weights, ffmpeg or the device are missing on this machine.
    """
    if model is not None:
        from workflows.detection.predict import TrainedDetector

        detector = TrainedDetector(
            Path(model),
            device=device,
            labels=labels,
            min_score=min_score,
            reader=reader,
            weights_dir=weights_dir,
            offline=offline,
        )
        if method not in (None, detector.method):
            raise UsageError(
                f"checkpoint {os.fspath(model)} holds a model of method {detector.method!r}, "
                f"not {method!r}",
                hint="leave out --method, or give a checkpoint of that method",
            )
        return detector
    wanted = Wanted(backbone, device, labels, min_score, reader, weights_dir)
    usual = "agreement" if labels is None else "open-vocabulary"
    with network(offline=offline):
        return _loader(method or usual)(wanted)


def _loader(method: str) -> Callable[[Wanted], Detector]:
    """What loads a detector without a checkpoint."""
    if method in TRAINED_METHODS and method not in METHODS:
        raise UsageError(
            f"method {method!r} needs a trained model",
            hint=f"give it with --model, or use one of {', '.join(METHODS)}",
        )
    if method not in METHODS:
        raise UsageError(
            f"unknown method {method!r}", hint=f"without a model: {', '.join(METHODS)}"
        )
    return METHODS[method]


def _load_agreement(wanted: Wanted) -> Detector:
    loaded, table = _nets_with_classes(wanted, method="agreement")
    settings = AgreementSettings()
    if wanted.min_score is not None:
        settings = replace(settings, min_score=wanted.min_score)
    return AgreementDetector(
        loaded, table, settings=settings, labels=wanted.labels, reader=wanted.reader
    )


def _load_clasp(wanted: Wanted) -> Detector:
    from workflows.detection.anchored import (
        AnchoredSettings,
        anchors_on_agreement,
        anchors_on_vocabulary,
    )

    settings = AnchoredSettings()
    if wanted.min_score is not None:
        settings = replace(settings, min_score=wanted.min_score)
    if is_hf(wanted.backbone or ""):
        free = _open_vocabulary(wanted)
        return anchors_on_vocabulary(free, settings=settings, reader=wanted.reader)
    loaded, table = _nets_with_classes(wanted, method="clasp")
    return anchors_on_agreement(
        loaded, table, settings=settings, labels=wanted.labels, reader=wanted.reader
    )


def _nets_with_classes(wanted: Wanted, *, method: str) -> tuple[Backbone, JointTable]:
    """A backbone whose nets name classes, and those that both can name."""
    loaded = load_backbone(
        wanted.backbone or "lite", device=wanted.device, weights_dir=wanted.weights_dir
    )
    if loaded.spec.audio.classes == 0 or loaded.spec.vision.classes == 0:
        raise UsageError(
            f"backbone {loaded.spec.name!r} names no classes, which the {method} detector needs",
            hint="use --backbone lite, or give a trained model with --model",
        )
    return loaded, load_joint_table(loaded.audio.class_names, loaded.vision.class_names)


def _open_vocabulary(wanted: Wanted) -> OpenVocabularyDetector:
    from workflows.detection.open_encoders import load_open_vocabulary

    return load_open_vocabulary(
        wanted.labels,
        backbone=wanted.backbone,
        device=wanted.device,
        min_score=wanted.min_score,
        reader=wanted.reader,
        weights_dir=wanted.weights_dir,
    )


METHODS: dict[str, Callable[[Wanted], Detector]] = {
    "agreement": _load_agreement,
    "clasp": _load_clasp,
    "open-vocabulary": _open_vocabulary,
}
"""Detectors that need no checkpoint, by the name that ``--method`` takes."""


def _only(curves: Curves, labels: Iterable[str]) -> Curves:
    wanted = set(labels)
    columns = [index for index, label in enumerate(curves.labels) if label in wanted]
    kept = tuple(curves.labels[index] for index in columns)
    return Curves(curves.times, kept, curves.values[:, columns])
