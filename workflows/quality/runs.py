"""Folders that ``pipeline run`` wrote, read for a report; what they lack is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors.storage.store import FeatureStore
from model.checkpoint import Card, read_card
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, PipelineError, UsageError
from pipeline.core.events import Event
from pipeline.recipe import Recipe
from pipeline.report.run_view import ScoreView
from workflows.annotations import BadRows, load_truth, read_json
from workflows.detection.predict import MIN_SCORE
from workflows.training.dataset import SplitDataset
from workflows.training.log import read_log


@dataclass(slots=True)
class Run:
    """One folder.

    Attributes:
        folder: Where it lies.
        name: Short and unique among the runs of a report.
        recipe: What it was made from.
        log: Rows of its training; none where there is no log.
        scores: Of the eval stage.
        card: Of its best checkpoint.
        classes: Names in the order of their numbers.
        truth: True events of the test split by video, as annotated.
        data: The test split with its features.
        missing: Parts that are not there, and why.
    """

    folder: Path
    name: str
    recipe: Recipe
    log: tuple[Mapping[str, float], ...] = ()
    scores: ScoreView | None = None
    card: Card | None = None
    classes: tuple[str, ...] | None = None
    truth: dict[str, tuple[Event, ...]] | None = None
    data: SplitDataset | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """The weights that were best on validation."""
        return self.folder / "best.safetensors"

    @property
    def can_predict(self) -> bool:
        """Whether there are weights, labels and features."""
        return self.card is not None and self.data is not None

    @property
    def threshold(self) -> float:
        """Score from which on people are shown its events; see `workflows.detection.predict`."""
        known = self.card.metrics.get("threshold") if self.card else None
        return known or MIN_SCORE

    @property
    def about(self) -> str:
        """The main choices in a few words."""
        recipe = self.recipe
        fusion = {
            "dynamic": "dynamic windows",
            "fixed": "fixed windows",
            "global": "global cross-attention",
            "none": "no cross-attention",
        }[recipe.model.fusion]
        parts = [fusion, f"LCC {recipe.loss.correspondence}"]
        if recipe.data.modalities != "both":
            parts.append(f"{recipe.data.modalities} only")
        return ", ".join(parts)


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders and check that they can stand side by side.

    Raises:
        UsageError: A folder holds no run, is named twice, or the runs are of other classes, other
            test videos or another backbone.
        ConfigError: A file of a run is damaged.
        CheckpointError: A checkpoint is damaged.
    """
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise UsageError(f"the run {folders[index]} is named twice", hint="name each run once")
    runs = [_load(folder, name) for folder, name in zip(resolved, _names(resolved), strict=True)]
    for other in runs[1:]:
        _check_pair(runs[0], other)
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell all of them apart."""
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _load(folder: Path, name: str) -> Run:
    if not (folder / "recipe.yaml").is_file():
        raise UsageError(
            f"{folder} is no folder of a run: it has no recipe.yaml",
            hint="give the output.folder of a recipe that `pipeline run` was started with",
        )
    run = Run(folder, name, load_recipe(folder / "recipe.yaml"))
    source = folder / "recipe.yaml"
    if (folder / "log.csv").exists():
        run.log = tuple(read_log(folder / "log.csv"))
    else:
        run.missing.append("training curves: there is no log.csv; the train stage writes it")
    if (folder / "metrics.json").exists():
        run.scores = read_scores(folder / "metrics.json")
    else:
        run.missing.append(
            "scores: there is no metrics.json; "
            f"`pipeline run --stage eval --config {source}` writes it"
        )
    if run.checkpoint.exists():
        run.card = read_card(run.checkpoint)
        run.classes = run.card.classes
    else:
        run.missing.append(
            "similarity, timelines and windows: there is no best.safetensors; "
            f"`pipeline run --stage train --config {source}` writes it"
        )
    _load_data(run)
    return run


def _load_data(run: Run) -> None:
    """Labels and features of the test split; where they are gone, that is a missing part."""
    recipe = run.recipe
    bad_rows: BadRows = "drop" if recipe.data.bad_rows == "drop" else "error"
    try:
        labels = load_truth(recipe.data.annotations, subset=recipe.data.test, bad_rows=bad_rows)
        videos = labels.subset(recipe.data.test)
        run.classes = run.classes or labels.classes
        run.truth = {id: video.events for id, video in videos.items()}
        store = FeatureStore.open(
            recipe.data.features, digest=run.card.digest if run.card else None
        )
        run.data = SplitDataset(
            store,
            videos,
            labels.classes,
            modalities=recipe.data.modalities,
            bad_rows=bad_rows,
        )
    except PipelineError as error:
        run.missing.append(f"similarity, timelines and windows: {error}")


def _check_pair(first: Run, other: Run) -> None:
    """Refuse to compare what does not belong together."""
    for what, one, two in (
        ("classes", first.classes, other.classes),
        ("backbones", first.card and first.card.digest, other.card and other.card.digest),
        ("true events of the test split", first.truth, other.truth),
    ):
        if one is not None and two is not None and one != two:
            raise UsageError(
                f"the runs {first.name!r} and {other.name!r} cannot be compared: they have other "
                f"{what}{_sample(one, two)}",
                hint="report them one by one",
            )
    if first.truth is None or other.truth is None:
        places = [run.recipe.data.annotations for run in (first, other)]
        if places[0] != places[1]:
            raise UsageError(
                f"the runs {first.name!r} and {other.name!r} name the annotations {places[0]} and "
                f"{places[1]}, of which one cannot be read",
                hint="bring the file back, or report them one by one",
            )


def _sample(one: Any, two: Any) -> str:
    """The first entry that only one side has."""
    if not isinstance(one, tuple | dict):
        return f" ({one} and {two})"
    lone = [entry for entry in (*one, *two) if entry not in one or entry not in two]
    if not lone and isinstance(one, dict):
        lone = [f"those of {id}" for id in one if one[id] != two[id]]
    return f", such as {lone[0]}" if lone else ""


def read_scores(path: Path) -> ScoreView:
    """The ``metrics.json`` of the eval stage.

    Raises:
        ConfigError: The file cannot be read or is of another layout.
    """
    value = read_json(path, what="file of scores")
    try:
        scores, baseline = value["scores"], value["whole_video_baseline"]
        return ScoreView(
            tiou=tuple(scores["tiou"]),
            mean=tuple(scores["mAP"]),
            average=float(scores["average_mAP"]),
            classes={label: sum(row) / len(row) for label, row in scores["AP"].items()},
            events={label: int(count) for label, count in scores["events"].items()},
            baseline=tuple(baseline["mAP"]),
            videos=int(value["videos"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{path} does not hold scores: {error!r}", hint="run the eval stage again"
        ) from error


def recipe_differences(runs: Sequence[Run]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Values of the recipes that are not the same in all runs; where results go is left out."""
    trees = [_flat(run.recipe.to_json()) for run in runs]
    return tuple(
        (name, values)
        for name in trees[0]
        if not name.startswith(("output.", "detect."))
        and len(set(values := tuple(tree.get(name, "") for tree in trees))) > 1
    )


def _flat(tree: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{section}.{name}": str(value)
        for section, values in tree.items()
        for name, value in values.items()
    }
