"""The stages of a recipe, in order; each is skipped while its inputs have not changed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch

from extractors.device import select_device
from extractors.media.video import ReaderChoice
from extractors.registry import backbone_spec
from extractors.store import FeatureStore
from model.checkpoint import Card, load_checkpoint
from model.decoding import DecodingSettings
from model.loco import LoCo
from pipeline.config import dump_recipe
from pipeline.core.atomic import write_json, write_text
from pipeline.core.errors import ConfigError, MediaError
from pipeline.formats import write_folder
from pipeline.recipe import Recipe
from workflows.annotations import Annotations, load_annotations
from workflows.dataset import SplitDataset
from workflows.detect import load_detector
from workflows.evaluate import evaluate_split, results_json
from workflows.extract import extract
from workflows.inputs import find_media
from workflows.predict import Predictor
from workflows.train import TrainSettings, train

Stage = Literal["extract", "train", "eval", "detect"]
ORDER: tuple[Stage, ...] = ("extract", "train", "eval", "detect")


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
    recipe: Recipe, *, stage: str = "all", resume: bool = False, device: str = "auto"
) -> StagesReport:
    """Run one stage of a recipe, or all in order.

    Args:
        recipe: The recipe.
        stage: ``extract``, ``train``, ``eval``, ``detect`` or ``all``.
        resume: Continue a training that stopped.
        device: Where encoders and model run.

    Raises:
        ConfigError: The recipe or the annotations do not fit.
        StoreError: The features are of another backbone, or missing.
        CheckpointError: There is no checkpoint to evaluate or to detect with.
    """
    folder = recipe.output.folder
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    runs: dict[Stage, Callable[[], StageRow]] = {
        "extract": lambda: _extract(recipe, device=device),
        "train": lambda: _train(recipe, device=device, resume=resume),
        "eval": lambda: _evaluate(recipe, device=device),
        "detect": lambda: _detect(recipe, device=device),
    }
    chosen = ORDER if stage == "all" else [name for name in ORDER if name == stage]
    report = StagesReport()
    for name in chosen:
        report.rows.append(runs[name]())
    return report


def _extract(recipe: Recipe, *, device: str) -> StageRow:
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
    )
    failed = sum(report.counts.get(name, 0) for name in ("failed", "quarantined"))
    return StageRow("extract", "done", report.format_table(), failed)


def _train(recipe: Recipe, *, device: str, resume: bool) -> StageRow:
    labels, store = _inputs(recipe)
    mark = _fingerprint(recipe, store, ("data", "model", "loss", "optim", "train", "infer"))
    if _is_unchanged(recipe, "train", mark):
        return StageRow("train", "unchanged")
    chosen = select_device(device)
    data = _split(recipe, labels, store, recipe.data.train)
    model, card = build_model(recipe, labels, store)
    validate = None
    if recipe.data.validation:
        validate = _validator(
            recipe, labels, _split(recipe, labels, store, recipe.data.validation), card, chosen
        )
    state = train(
        model,
        data,
        settings=train_settings(recipe),
        output=recipe.output.folder,
        card=card,
        validate=validate,
        device=chosen,
        resume=resume,
        report=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201 - progress
    )
    _remember(recipe, "train", mark)
    return StageRow(
        "train",
        "done",
        f"{len(data)} videos, {state.epoch} epochs, best validation mAP {max(state.best, 0):.4f}, "
        f"checkpoint {recipe.output.folder / 'best.safetensors'}",
    )


def _evaluate(recipe: Recipe, *, device: str) -> StageRow:
    labels, store = _inputs(recipe)
    path = recipe.output.folder / "best.safetensors"
    mark = _fingerprint(recipe, store, ("data", "eval", "infer"), path)
    if _is_unchanged(recipe, "eval", mark):
        return StageRow("eval", "unchanged")
    chosen = select_device(device)
    model, card = load_checkpoint(path)
    predict = Predictor(model.to(chosen), card, device=chosen, settings=_decoding(recipe))
    report, predictions = evaluate_split(
        _split(recipe, labels, store, recipe.data.test),
        predict,
        tiou=recipe.eval.tiou,
    )
    write_json(recipe.output.folder / "metrics.json", report.to_json())
    write_json(recipe.output.folder / "predictions.json", results_json(predictions), indent=None)
    _remember(recipe, "eval", mark)
    return StageRow("eval", "done", report.format_table())


def _detect(recipe: Recipe, *, device: str) -> StageRow:
    if not recipe.detect.inputs:
        return StageRow("detect", "left out", "the recipe names no detect.inputs")
    min_score = None if recipe.detect.min_score < 0 else recipe.detect.min_score
    detector = load_detector(
        recipe.output.folder / "best.safetensors",
        device=device,
        min_score=min_score,
        reader=cast(ReaderChoice, recipe.backbone.reader),
    )
    found, failures = [], []
    for item in find_media(recipe.detect.inputs):
        try:
            found.append(detector(item.path))
        except MediaError as error:
            failures.append(str(error))
    written = write_folder(found, recipe.detect.formats, recipe.output.folder / "detections")
    lines = [f"{len(found)} videos, {sum(len(entry.events) for entry in found)} events"]
    lines += [f"failed: {reason}" for reason in failures] + [str(path) for path in written]
    return StageRow("detect", "done", "\n".join(lines), len(failures))


def build_model(recipe: Recipe, labels: Annotations, store: FeatureStore) -> tuple[LoCo, Card]:
    """Fresh weights under the recipe's seed, and the card of what will become of them."""
    architecture: dict[str, Any] = {
        "vision_dim": store.spec.vision.dim,
        "audio_dim": store.spec.audio.dim,
        "classes": len(labels.classes),
        **asdict(recipe.model),
        **asdict(recipe.loss),
    }
    torch.manual_seed(recipe.train.seed)
    card = Card(
        architecture,
        labels.classes,
        store.spec.to_json(),
        store.digest,
        data={
            "annotations": recipe.data.annotations.name,
            "train": recipe.data.train,
            "validation": recipe.data.validation,
            "modalities": recipe.data.modalities,
            "decoding": asdict(_decoding(recipe)),
        },
        licence=recipe.output.licence,
        command=f"pipeline run --stage train --config {recipe.source}",
    )
    return LoCo(**architecture), card


def train_settings(recipe: Recipe) -> TrainSettings:
    """The recipe's arguments of the training loop."""
    optim, shown = recipe.optim, recipe.train
    return TrainSettings(
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        epochs=optim.epochs,
        warmup_epochs=optim.warmup_epochs,
        batch_size=shown.batch_size,
        drop_last=shown.drop_last,
        clip=optim.clip,
        ema=optim.ema,
        seed=shown.seed,
        crop=(shown.crop[0], shown.crop[1]),
        keep=shown.keep,
        max_seq_len=recipe.model.max_seq_len,
        validate_every=shown.validate_every,
    )


def _validator(
    recipe: Recipe, labels: Annotations, data: SplitDataset, card: Card, device: torch.device
) -> Callable[[LoCo], float]:
    def validate(model: LoCo) -> float:
        predict = Predictor(model, card, device=device, settings=_decoding(recipe))
        report, _ = evaluate_split(data, predict, tiou=recipe.eval.tiou)
        return report.scores.average

    return validate


def _decoding(recipe: Recipe) -> DecodingSettings:
    infer = recipe.infer
    return DecodingSettings(
        min_score=infer.min_score,
        per_level=infer.per_level,
        min_length=infer.min_length,
        sigma=infer.sigma,
        max_per_class=infer.max_per_class,
        max_total=infer.max_total,
        chunk=infer.chunk,
        overlap=infer.overlap,
    )


def _inputs(recipe: Recipe) -> tuple[Annotations, FeatureStore]:
    bad_rows: Literal["error", "drop"] = "drop" if recipe.data.bad_rows == "drop" else "error"
    labels = load_annotations(recipe.data.annotations, bad_rows=bad_rows)
    digest = backbone_spec(recipe.backbone.name).digest
    return labels, FeatureStore.open(recipe.data.features, digest=digest)


def _split(recipe: Recipe, labels: Annotations, store: FeatureStore, subset: str) -> SplitDataset:
    data = SplitDataset(
        store, labels.subset(subset), labels.classes, modalities=recipe.data.modalities
    )
    if data.missing and recipe.data.missing == "error":
        raise ConfigError(
            f"subset {subset!r}: {data.describe_missing()}",
            hint="run the extract stage, or set data.missing=skip",
        )
    return data


def _fingerprint(
    recipe: Recipe, store: FeatureStore, sections: tuple[str, ...], *files: Path
) -> str:
    """Hash of all that a stage reads: sections of the recipe, labels, features, files."""
    digest = hashlib.sha256()
    tree = recipe.to_json()
    digest.update(json.dumps({name: tree[name] for name in sections}, sort_keys=True).encode())
    digest.update(recipe.data.annotations.read_bytes())
    for id in sorted(store.ids()):
        digest.update(f"{id} {store.record(id).sha256}\n".encode())
    for path in files:
        if path.exists():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _marks(recipe: Recipe) -> dict[str, str]:
    path = recipe.output.folder / "stages.json"
    marks: dict[str, str] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return marks


def _is_unchanged(recipe: Recipe, stage: Stage, mark: str) -> bool:
    return _marks(recipe).get(stage) == mark


def _remember(recipe: Recipe, stage: Stage, mark: str) -> None:
    write_json(recipe.output.folder / "stages.json", {**_marks(recipe), stage: mark})
