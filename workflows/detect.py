"""From a media file to its events: one callable, whatever the detector behind it.

With a trained checkpoint the events come from LoCo; without one from the training-free agreement
of the two embedded nets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from extractors.features import Summary
from extractors.media.probe import probe
from extractors.media.video import ReaderChoice
from extractors.registry import load_backbone
from extractors.spec import Backbone
from extractors.stream import FeatureStream
from pipeline.core.errors import UsageError
from pipeline.core.events import Curves, Detections, sort_events
from workflows.agreement import AgreementScorer, AgreementSettings
from workflows.joint_classes import JointTable, load_joint_table
from workflows.labels import known_labels

SCORE_ARRAYS = ("audio_scores", "vision_scores", "audio_mask", "vision_mask")


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

    Features go from the stream into the scorer chunk by chunk and are dropped, embeddings at
    once, so memory hardly grows with the length of the file.

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
        self.labels = known_labels(labels, table.labels, table.unknown)
        self.settings = settings or AgreementSettings()
        self._backbone = backbone
        self._table = table
        self._reader = reader

    def __call__(self, path: str | os.PathLike[str]) -> Detections:
        """Events of one file; see `Detector`."""
        scorer = AgreementScorer(self._table, self.settings)
        stream = FeatureStream(probe(path), self._backbone, reader=self._reader)
        heard = seen = False
        for rows in stream:
            scorer.add({name: rows[name] for name in SCORE_ARRAYS if name in rows})
            heard = heard or bool(rows["audio_mask"].any())
            seen = seen or bool(rows["vision_mask"].any())
        summary = stream.summary
        events, curves = scorer.finish(self._backbone.spec.grid, summary.duration)
        return Detections(
            video=os.fspath(path),
            duration=summary.duration,
            events=sort_events(event for event in events if event.label in set(self.labels)),
            detector=self.name,
            notes=_notes(summary, heard=heard, seen=seen),
            curves=_only(curves, self.labels),
        )


def load_detector(
    model: str | os.PathLike[str] | None = None,
    *,
    backbone: str = "lite",
    device: str = "auto",
    labels: Sequence[str] | None = None,
    min_score: float | None = None,
    reader: ReaderChoice = "auto",
) -> Detector:
    """Load a detector.

    Args:
        model: A trained checkpoint; None for the agreement detector.
        backbone: Of the agreement detector; a checkpoint names its own.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        labels: Classes to report; None for all.
        min_score: Events below it are left out; None for the detector's own choice.
        reader: Video reader: ``auto``, ``decord`` or ``ffmpeg``.

    Raises:
        UsageError: Unknown backbone, device or label; a backbone whose nets name no classes.
        CheckpointError: The checkpoint cannot be read.
        EnvironmentFault: Weights, ffmpeg or the device are missing on this machine.
    """
    if model is not None:
        from workflows.predict import TrainedDetector

        return TrainedDetector(
            Path(model), device=device, labels=labels, min_score=min_score, reader=reader
        )
    loaded = load_backbone(backbone, device=device)
    if loaded.spec.audio.classes == 0 or loaded.spec.vision.classes == 0:
        raise UsageError(
            f"backbone {backbone!r} names no classes, which the agreement detector needs",
            hint="use --backbone lite, or give a trained model with --model",
        )
    settings = AgreementSettings()
    if min_score is not None:
        settings = replace(settings, min_score=min_score)
    table = load_joint_table(loaded.audio.class_names, loaded.vision.class_names)
    return AgreementDetector(loaded, table, settings=settings, labels=labels, reader=reader)


def _notes(summary: Summary, *, heard: bool, seen: bool) -> tuple[str, ...]:
    """The extraction's notes, and what they mean for this detector."""
    notes = list(summary.notes)
    if summary.status == "partial":
        shares = ", ".join(f"{name} {share:.0%}" for name, share in summary.coverage.items())
        notes.append(f"partial result: decoded of what the file promises: {shares}")
    if not (heard and seen):
        missing = " and ".join(n for n, there in (("sound", heard), ("picture", seen)) if not there)
        notes.append(f"an event must be seen and heard; without {missing} none can be found")
    return tuple(notes)


def _only(curves: Curves, labels: Iterable[str]) -> Curves:
    wanted = set(labels)
    columns = [index for index, label in enumerate(curves.labels) if label in wanted]
    kept = tuple(curves.labels[index] for index in columns)
    return Curves(curves.times, kept, curves.values[:, columns])
