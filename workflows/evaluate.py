"""Evaluation: mAP of a detector on a split, beside what whole-video classification would score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractors.features import Features
from pipeline.core.errors import ConfigError
from pipeline.core.events import Event, sort_events
from workflows.annotations import BadRows, VideoLabels, load_truth, read_json, refuse_rows
from workflows.matching import list_some, match_ids
from workflows.metrics import (
    TIOU,
    OtherVideos,
    Scores,
    mean_average_precision,
    whole_video_baseline,
)
from workflows.training.dataset import SplitDataset

Predict = Callable[[Features], list[Event]]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Scores of one set of predictions.

    Attributes:
        scores: Of the predictions.
        baseline: Of whole-video predictions with the same classifier's scores.
        videos: Number of videos that were scored.
        notes: What the reader must know, such as videos without features.
    """

    scores: Scores
    baseline: Scores
    videos: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "videos": self.videos,
            "scores": scores_json(self.scores),
            "whole_video_baseline": scores_json(self.baseline),
            "notes": list(self.notes),
        }

    def format_table(self, *, per_class: bool = False) -> str:
        """The report as text; scores in percent."""
        levels = "".join(f"{level:>7.2f}" for level in self.scores.tiou)
        lines = [f"{'mAP (%) at tIoU':<24}{levels}{'mean':>8}"]
        for name, scores in (("detections", self.scores), ("whole-video baseline", self.baseline)):
            cells = "".join(f"{100 * value:>7.2f}" for value in scores.by_tiou)
            lines.append(f"{name:<24}{cells}{100 * scores.average:>8.2f}")
        if per_class:
            lines += ["", f"{'class':<32}{'events':>8}{'AP (%)':>8}"]
            for label, row, count in zip(
                self.scores.classes, self.scores.precision, self.scores.events, strict=True
            ):
                lines.append(f"{label:<32}{count:>8}{100 * row.mean():>8.2f}")
        lines += [f"{self.videos} videos", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)


def scores_json(scores: Scores) -> dict[str, Any]:
    """Scores as plain values, fractions of 1."""
    return {
        "tiou": list(scores.tiou),
        "mAP": scores.by_tiou.tolist(),
        "average_mAP": scores.average,
        "AP": dict(zip(scores.classes, scores.precision.tolist(), strict=True)),
        "events": dict(zip(scores.classes, scores.events.tolist(), strict=True)),
    }


def truth_of(videos: Mapping[str, VideoLabels]) -> dict[str, tuple[Event, ...]]:
    """Ground truth of each video."""
    return {id: video.events for id, video in videos.items()}


def predict_split(data: SplitDataset, predict: Predict) -> dict[str, list[Event]]:
    """Events of each video of a split, by annotation id."""
    return {id: predict(data.features(id)) for id in data.ids}


def best_scores(events: Sequence[Event]) -> dict[str, float]:
    """Score of each class in one video: that of its best event."""
    best: dict[str, float] = {}
    for event in events:
        best[event.label] = max(best.get(event.label, 0.0), event.score)
    return best


def score(
    truth: Mapping[str, Sequence[Event]],
    predictions: Mapping[str, Sequence[Event]],
    durations: Mapping[str, float],
    *,
    tiou: Sequence[float] = TIOU,
    video_scores: Mapping[str, Mapping[str, float]] | None = None,
    other_videos: OtherVideos = "wrong",
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """Score predictions, and the whole-video answer with their own video scores.

    Args:
        truth: Ground truth of every video of the split.
        predictions: Events of each video.
        durations: Seconds of each video.
        tiou: Thresholds.
        video_scores: Score of each class in each video, where the model itself says one; else that
            of the best event of the class.
        other_videos: What predictions for a video outside ``truth`` are: ``wrong``, as in public
            evaluators, or left out (``drop``).
        notes: Passed on.

    Raises:
        ConfigError: There is no event to find.
    """
    if not any(truth.values()):
        raise ConfigError("the videos to evaluate on have no annotated event")

    scores = mean_average_precision(truth, predictions, tiou=tiou, other_videos=other_videos)
    # Only the model's own video scores: what the same classifier is worth without localisation.
    if video_scores is None:
        video_scores = {video: best_scores(predictions.get(video, ())) for video in truth}
    return EvaluationReport(
        scores,
        mean_average_precision(truth, whole_video_baseline(durations, video_scores), tiou=tiou),
        len(truth),
        (*notes, *_strangers(truth, predictions, scores, other_videos)),
    )


def evaluate_split(
    data: SplitDataset,
    predict: Predict,
    *,
    tiou: Sequence[float] = TIOU,
    notes: Sequence[str] = (),
) -> tuple[EvaluationReport, dict[str, list[Event]]]:
    """Detect in every video of a split and score the result.

    Args:
        data: The split.
        predict: The detector.
        tiou: Thresholds.
        notes: What is to be known of the annotations, such as rows that were left out.

    Returns:
        The report, and the events of each video.
    """
    predictions = predict_split(data, predict)
    return score_split(data, predictions, tiou=tiou, notes=notes), predictions


def score_split(
    data: SplitDataset,
    predictions: Mapping[str, Sequence[Event]],
    *,
    tiou: Sequence[float] = TIOU,
    video_scores: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """Score the events that were found in the videos of a split.

    Args:
        data: The split.
        predictions: Events of each video.
        tiou: Thresholds.
        video_scores: As for `score`.
        notes: As for `evaluate_split`.
    """
    durations = {id: data.features(id).summary.duration for id in data.ids}
    said = [*notes, data.describe_missing(), *data.describe_changed()]
    return score(
        truth_of(data.videos),
        predictions,
        durations,
        tiou=tiou,
        video_scores=video_scores,
        notes=[note for note in said if note],
    )


def evaluate_file(
    predictions: Path,
    annotations: Path,
    *,
    subset: str = "test",
    tiou: Sequence[float] = TIOU,
    other_videos: OtherVideos = "wrong",
    bad_rows: BadRows = "error",
) -> EvaluationReport:
    """Score an ActivityNet-style results file against an annotation file.

    Names of videos are compared as `workflows.matching.match_ids` does. Segments of other subsets
    are not looked at.

    Args:
        predictions: The results file; rows name their class by ``label``, or by ``label_id``.
        annotations: The annotation file.
        subset: Split to score.
        tiou: Thresholds.
        other_videos: What predictions for other videos are; see `score`.
        bad_rows: Of the annotations; see `workflows.annotations.load_annotations`.

    Raises:
        ConfigError: A file cannot be read, has another layout, or has rows that are no events.
    """
    labels = load_truth(annotations, subset=subset, bad_rows=bad_rows)
    videos = labels.subset(subset)
    found = read_results(predictions, dict(zip(labels.label_ids, labels.classes, strict=True)))
    names, missing = match_ids(videos, found)
    strangers = found.keys() - set(names.values())
    events = {id: found[name] for id, name in names.items()} | {
        f"{name} (not in {subset})": found[name] for name in strangers
    }
    durations = {
        id: video.duration or _last_end([*video.events, *events.get(id, ())])
        for id, video in videos.items()
    }
    notes = list(labels.notes)
    if missing:
        notes.append(
            f"{len(missing)} of {len(videos)} annotated videos have no predictions: "
            f"{list_some(missing)}"
        )
    return score(
        truth_of(videos), events, durations, tiou=tiou, other_videos=other_videos, notes=notes
    )


def read_results(path: Path, names: Mapping[int, str] | None = None) -> dict[str, list[Event]]:
    """Events of each video of an ActivityNet-style results file.

    Args:
        path: The file.
        names: Class of each ``label_id``, for rows without a label.

    Raises:
        ConfigError: The file cannot be read, or rows are no events; each is named.
    """
    content = read_json(path, what="results file")
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise ConfigError(
            f"{path} is no results file: it has no 'results'",
            hint='expected {"results": {video: [{"label", "score", "segment"}]}}',
        )
    found: dict[str, list[Event]] = {}
    problems = []
    for video, rows in results.items():
        found[video] = []
        for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
            try:
                found[video].append(_event(row, names or {}))
            except (KeyError, TypeError, ValueError) as error:
                reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
                problems.append(f"video {video!r}, row {number}: {reason}")
    if problems:
        raise refuse_rows(path, problems, hint="correct the file")
    return found


def _event(row: Mapping[str, Any], names: Mapping[int, str]) -> Event:
    start, end = row["segment"]
    label = row["label"] if "label" in row else names.get(row["label_id"], row["label_id"])
    return Event(float(start), float(end), str(label), float(row["score"]))


def _strangers(
    truth: Mapping[str, Sequence[Event]],
    predictions: Mapping[str, Sequence[Event]],
    scores: Scores,
    other_videos: OtherVideos,
) -> list[str]:
    """Sentences about predictions that have no place in the ground truth."""
    notes = []
    if scores.other_videos:
        verdict = "count as wrong" if other_videos == "wrong" else "were left out"
        names = list_some(video for video in predictions if video not in truth)
        notes.append(
            f"{scores.other_videos} predictions are for videos outside the split and {verdict}: "
            f"{names}"
        )
    if scores.other_classes:
        unknown = {e.label for events in predictions.values() for e in events}
        names = list_some(sorted(unknown - set(scores.classes)))
        notes.append(
            f"{scores.other_classes} predictions are of classes without an event in the split and "
            f"were left out: {names}"
        )
    return notes


def results_json(predictions: Mapping[str, Sequence[Event]]) -> dict[str, Any]:
    """Predictions as an ActivityNet-style results file."""
    return {
        "version": "1.0",
        "results": {
            video: [
                {"label": event.label, "score": event.score, "segment": [event.start, event.end]}
                for event in sort_events(events)
            ]
            for video, events in predictions.items()
        },
        "external_data": {},
    }


def _last_end(events: Sequence[Event]) -> float:
    return max((event.end for event in events), default=0.0)
