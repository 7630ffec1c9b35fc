"""The stages of a recipe, in order; each is skipped while its inputs have not changed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from extractors.device import select_device
from extractors.media.video import ReaderChoice
from extractors.registry import check_backbone
from extractors.storage.records import fingerprint
from extractors.storage.store import FeatureStore
from extractors.weights.network import network
from model.build import Network
from model.checkpoint import Card, load_network
from model.clasp import CLASP
from model.loco import LoCo
from pipeline.config import dump_recipe
from pipeline.core.atomic import write_json, write_text
from pipeline.core.errors import CheckpointError, MediaError
from pipeline.core.events import Detections
from pipeline.formats import format_writer, write_folder
from pipeline.recipe import Recipe
from workflows.annotations import Annotations
from workflows.detection.predict import Predictor, TrainedDetector
from workflows.evaluate import evaluate_split, results_json, truth_of
from workflows.extraction.run import extract
from workflows.inputs import MediaItem, find_media
from workflows.metrics import best_threshold
from workflows.stage_data import (
    check_labels,
    complete,
    describe_training,
    is_plain_list,
    is_semi_weak,
    is_weak,
    load_labels,
    load_test_labels,
    open_features,
    plain_split,
    training_notes,
)
from workflows.training.build import build_model, decoding_settings, train_settings
from workflows.training.dataset import SplitDataset
from workflows.training.loop import train
from workflows.two_files import label_files
from workflows.weak.semi import (
    semi_weak_labels,
    start_from_teacher,
    teacher_checkpoints,
    teacher_recipe,
)
from workflows.weak.stages import evaluate_weak, video_validator, weak_split
from workflows.weak.strong import strong_videos

Stage = Literal["extract", "train", "eval", "detect"]
ORDER: tuple[Stage, ...] = ("extract", "train", "eval", "detect")
# Values that changed nothing when recipes came to hold them: what is finished without them stays
# finished.
CAME_LATER = {
    ("localise", "filter"): "mean",
    ("loss", "sigma_unit"): "steps",
    ("loss", "least_sigma"): 0.3,
    ("train", "crop_margin"): 0.0,
}


@dataclass(frozen=True, slots=True)
class StageRow:
    """What became of one stage.

    Attributes:
        stage: Its name.
        outcome: ``done``, ``unchanged`` (its inputs were those of its last run) or ``left out``
            (the recipe gives it nothing to do).
        detail: A sentence or a table.
        failed: Items that failed.
    """

    stage: Stage
    outcome: Literal["done", "unchanged", "left out"]
    detail: str = ""
    failed: int = 0


@dataclass(slots=True)
class StagesReport:
    """What became of all stages."""

    rows: list[StageRow] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 when an item of a stage failed."""
        return int(any(row.failed for row in self.rows))

    def format_table(self) -> str:
        """The report as text."""
        return "\n".join(
            f"{row.stage}: {row.outcome}" + (f"\n{row.detail}" if row.detail else "")
            for row in self.rows
        )


def run_stages(
    recipe: Recipe,
    *,
    stage: str = "all",
    resume: bool = False,
    device: str = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> StagesReport:
    """Run one stage of a recipe, or all in order.

    Args:
        recipe: The recipe.
        stage: ``extract``, ``train``, ``eval``, ``detect`` or ``all``.
        resume: Continue a training that stopped.
        device: Where encoders and model run.
        weights_dir: Folder in which the backbone's weights are looked for first.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.

    Raises:
        ConfigError: The recipe or the annotations do not fit.
        UsageError: Unknown backbone or format; an unfinished training without ``resume``.
        StoreError: The features are of another backbone, or missing.
        CheckpointError: There is no checkpoint to evaluate or to detect with.
    """
    folder = recipe.output.folder
    check_backbone(recipe.backbone.name)  # whatever is wrong is said before the first hour of work
    for name in recipe.detect.formats:
        format_writer(name)
    check_labels(recipe, stage)
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    runs: dict[Stage, Callable[[], StageRow]] = {
        "extract": lambda: _extract(recipe, device=device, weights_dir=weights_dir),
        "train": lambda: _train(recipe, device=device, resume=resume),
        "eval": lambda: _evaluate(recipe, device=device),
        "detect": lambda: _detect(recipe, device=device, weights_dir=weights_dir),
    }
    chosen = ORDER if stage == "all" else [name for name in ORDER if name == stage]
    report = StagesReport()
    with network(offline=offline):
        for name in chosen:
            report.rows.append(runs[name]())
    return report


def _extract(
    recipe: Recipe, *, device: str, weights_dir: str | os.PathLike[str] | None
) -> StageRow:
    """The store resumes by itself, file by file."""
    if not recipe.data.videos:
        return StageRow("extract", "left out", "the recipe names no data.videos")
    report = extract(
        recipe.data.videos,
        recipe.data.features,
        backbone=recipe.backbone.name,
        device=device,
        scheduler=recipe.backbone.scheduler,
        workers=recipe.backbone.workers or None,
        reader=recipe.backbone.reader,
        weights_dir=weights_dir,
    )
    failed = sum(report.counts.get(name, 0) for name in ("failed", "quarantined"))
    return StageRow("extract", "done", report.format_table(), failed)


def _train(recipe: Recipe, *, device: str, resume: bool) -> StageRow:
    weak = is_weak(recipe)
    labels, store, teacher = _training_labels(recipe, device=device, resume=resume)
    split = weak_split if weak else plain_split
    data = complete(recipe, split(recipe, labels, store, recipe.data.train))
    checks = None
    if recipe.data.validation and not (weak and is_plain_list(recipe)):
        checks = complete(recipe, split(recipe, labels, store, recipe.data.validation))
    ids = data.stored_ids + (checks.stored_ids if checks else [])
    decisive = ["data", "model", "loss", "clasp", *(["semi_weak"] if is_semi_weak(recipe) else [])]
    sections = [*decisive, "localise", "optim", "train", "infer"]
    mark = _fingerprint(recipe, store, ids, sections, *teacher)
    if _is_unchanged(recipe, "train", mark, "best.safetensors"):
        return StageRow("train", "unchanged")
    chosen = select_device(device)
    model, card = build_model(recipe, labels, store)
    if is_semi_weak(recipe):
        start_from_teacher(model, recipe)
    validate = None
    if checks:
        validate = (video_validator if weak else _validator)(recipe, checks, card)
    notes = training_notes(labels, data)
    _say("\n".join([describe_training(recipe, data), *notes]))  # before the first hour of work
    state = train(
        model,
        data,
        settings=train_settings(recipe),
        output=recipe.output.folder,
        card=card,
        validate=validate,
        device=chosen,
        resume=resume,
        inputs=_fingerprint(recipe, store, ids, decisive, *teacher),
        tensorboard=recipe.train.tensorboard,
        report=_say,
    )
    _remember(recipe, "train", mark)
    quality = f"best validation mAP {state.best:.4f}" if validate else "no validation subset"
    lines = [
        f"{len(data)} videos, {state.epoch} epochs, {quality}, "
        f"checkpoint {recipe.output.folder / 'best.safetensors'}",
        *notes,
    ]
    return StageRow("train", "done", "\n".join(lines))


def _training_labels(
    recipe: Recipe, *, device: str, resume: bool
) -> tuple[Annotations, FeatureStore, list[Path]]:
    """What there is to learn from; in semi-weak training also the teacher it comes from.

    The teacher is trained first where it is a recipe.
    """
    labels = load_labels(recipe, weak=is_weak(recipe) or is_semi_weak(recipe))
    store = open_features(recipe)
    if not is_semi_weak(recipe):
        return labels, store, []
    data = complete(recipe, weak_split(recipe, labels, store, recipe.data.train))
    strong = strong_videos(recipe, labels, store, data)  # wrong ones are named before the teacher
    if (teacher := teacher_recipe(recipe)) is not None:
        _say("training the teacher")
        write_text(teacher.output.folder / "recipe.yaml", dump_recipe(teacher))
        _train(teacher, device=device, resume=resume)
    labels = semi_weak_labels(recipe, labels, store, data, strong, device=select_device(device))
    return labels, store, teacher_checkpoints(recipe)


def _evaluate(recipe: Recipe, *, device: str) -> StageRow:
    if not recipe.data.test or is_plain_list(recipe):
        reason = "has no segments" if is_plain_list(recipe) else "has no subset data.test"
        return StageRow("eval", "left out", f"{recipe.data.annotations} {reason} to measure on")
    labels, store = load_test_labels(recipe), open_features(recipe)
    path = _trained(recipe)
    data = complete(recipe, plain_split(recipe, labels, store, recipe.data.test))
    sections = ("data", "eval", "infer", "localise")
    mark = _fingerprint(recipe, store, data.stored_ids, sections, path)
    if _is_unchanged(recipe, "eval", mark, "metrics.json", "predictions.json"):
        return StageRow("eval", "unchanged")
    chosen = select_device(device)
    model, card = load_network(path)
    card.check_classes(labels.classes)
    model = model.to(chosen)
    if isinstance(model, CLASP):
        found = evaluate_weak(recipe, model, card, data, labels.notes)
        report, predictions = found.report, found.predictions
        metrics, table = found.to_json(), found.format_table()
    else:
        predict = Predictor(model, card, settings=decoding_settings(recipe))
        report, predictions = evaluate_split(
            data, predict, tiou=recipe.eval.tiou, notes=labels.notes
        )
        metrics, table = report.to_json(), ""
    write_json(recipe.output.folder / "metrics.json", metrics)
    write_json(recipe.output.folder / "predictions.json", results_json(predictions), indent=None)
    _remember(recipe, "eval", mark)
    return StageRow("eval", "done", "\n\n".join(filter(None, [report.format_table(), table])))


def _detect(recipe: Recipe, *, device: str, weights_dir: str | os.PathLike[str] | None) -> StageRow:
    if not recipe.detect.inputs:
        return StageRow("detect", "left out", "the recipe names no detect.inputs")
    items = find_media(recipe.detect.inputs)
    path = _trained(recipe)
    mark = _hash(
        recipe.to_json()["detect"], _file_hash(path), [_media_mark(item) for item in items]
    )
    if _is_unchanged(recipe, "detect", mark, "detections"):
        return StageRow("detect", "unchanged")
    detector = TrainedDetector(
        path,
        device=device,
        min_score=None if recipe.detect.min_score < 0 else recipe.detect.min_score,
        reader=cast(ReaderChoice, recipe.backbone.reader),
        weights_dir=weights_dir,
    )
    found, failures = [], []
    for item in items:
        try:
            found.append(_detect_one(recipe, detector, item))
        except MediaError as error:
            failures.append(str(error))
    written = write_folder(found, recipe.detect.formats, recipe.output.folder / "detections")
    if not failures:
        _remember(recipe, "detect", mark)
    lines = [f"{len(found)} videos, {sum(len(entry.events) for entry in found)} events"]
    lines += [f"failed: {reason}" for reason in failures] + [str(path) for path in written]
    return StageRow("detect", "done", "\n".join(lines), len(failures))


def _trained(recipe: Recipe) -> Path:
    """The checkpoint that the train stage leaves."""
    path = recipe.output.folder / "best.safetensors"
    if not path.exists():
        raise CheckpointError(
            f"there is no trained model at {path}", hint="run the train stage first"
        )
    return path


def _detect_one(recipe: Recipe, detector: TrainedDetector, item: MediaItem) -> Detections:
    """From the recipe's store where it holds this very file, else from the file."""
    if (recipe.data.features / "store.json").exists():
        store = FeatureStore.open(recipe.data.features)
        source = None if (record := store.get(item.id)) is None else record.source
        if source and store.digest == detector.digest and source.matches(item.path):
            return detector.detections(store.read(item.id), video=str(item.path))
    return detector(item.path)


def _validator(
    recipe: Recipe, data: SplitDataset, card: Card
) -> Callable[[Network], dict[str, float]]:
    def validate(model: Network) -> dict[str, float]:
        assert isinstance(model, LoCo)
        predict = Predictor(model, card, settings=decoding_settings(recipe))
        report, events = evaluate_split(data, predict, tiou=recipe.eval.tiou)
        threshold, _ = best_threshold(truth_of(data.videos), events)
        return {"validation_mAP": report.scores.average, "threshold": threshold}

    return validate


def _say(line: str) -> None:
    """Progress of long stages; standard output is for results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _fingerprint(
    recipe: Recipe,
    store: FeatureStore,
    ids: Sequence[str],
    sections: Sequence[str],
    *files: Path,
) -> str:
    """Hash of all that a stage reads: sections of the recipe, labels, features, files."""
    tree = recipe.to_json()
    del tree["train"]["tensorboard"]  # decides what is logged, not what is learned
    del tree["semi_weak"]["teacher"]  # its weights are among the files
    for (section, name), value in CAME_LATER.items():
        if tree[section][name] == value:
            del tree[section][name]
    features = [f"{id} {store.record(id).sha256}" for id in sorted(ids)]
    hashes = [_file_hash(path) for path in (*label_files(recipe.data.annotations), *files)]
    return _hash({name: tree[name] for name in sections}, features, hashes)


def _media_mark(item: MediaItem) -> Any:
    try:
        return [item.id, str(item.path), fingerprint(item.path).to_json()]
    except MediaError:
        return [item.id, str(item.path), None]  # detecting in it says why


def _file_hash(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _marks(recipe: Recipe) -> dict[str, str]:
    """Fingerprints of the stages that ran; none where the file is missing or damaged."""
    try:
        value = json.loads((recipe.output.folder / "stages.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_unchanged(recipe: Recipe, stage: Stage, mark: str, *results: str) -> bool:
    there = all((recipe.output.folder / name).exists() for name in results)
    return there and _marks(recipe).get(stage) == mark


def _remember(recipe: Recipe, stage: Stage, mark: str) -> None:
    write_json(recipe.output.folder / "stages.json", {**_marks(recipe), stage: mark})
