"""Run a study: train and measure every variant with every seed, and fill its table.

Every run has a folder of its own and keeps what it has finished, so that a study that was killed
goes on where it stopped; the table is written again after each run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractors.storage.store import FeatureStore
from pipeline.config import load_recipe
from pipeline.core.atomic import write_json
from pipeline.core.errors import PipelineError, UsageError
from pipeline.core.locks import LockFile
from workflows.annotations import load_annotations
from workflows.progress import Progress
from workflows.schedule import run_tasks
from workflows.simulation.make import simulate
from workflows.study.file import Study
from workflows.study.table import StudyRow, StudyTable
from workflows.study.trial import Trial, run_trial
from workflows.training.dataset import SplitDataset
from workflows.whole_video import evaluate_whole_video

RESULT = "result.json"  # of a run that ended, for tables


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One task of a study; plain values, so that it can go to another process.

    Attributes:
        row: Name of its row.
        seed: Of training; None for a baseline, which has none.
        trial: What is done.
        folder: Of the run.
        baseline: Whether it is the whole-video classifier.
    """

    row: str
    seed: int | None
    trial: Trial
    folder: str
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class StudyReport:
    """How a study ended.

    Attributes:
        table: With all runs that ended.
        failures: One sentence for each run that failed.
        folder: Where everything lies.
    """

    table: StudyTable
    failures: tuple[str, ...]
    folder: Path

    @property
    def exit_code(self) -> int:
        """1 when a run failed."""
        return int(bool(self.failures))

    def format_table(self) -> str:
        """The report as text."""
        lines = [self.table.format_markdown()]
        lines += [f"failed: {failure}" for failure in self.failures]
        return "\n".join([*lines, f"written: {self.folder / 'table.md'}, table.csv, table.json"])


def run_study(
    study: Study,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> StudyReport:
    """Make what is missing of a study.

    Args:
        study: What to run.
        out: Receives ``runs/VARIANT/seed-N/``, ``simulation/`` where there is one, and the table.
        device: Where models run.
        workers: Runs at once, each in a process of its own; several of them share one GPU.
        report: Takes a line as each part begins or ends.

    Raises:
        ConfigError: The annotations cannot be read or are too few for the simulation.
        UsageError: Another process is running the study.
        StoreError: The folder holds another simulation.
    """
    with LockFile(_folder(out) / "locks").hold("study", wait=False) as mine:
        if not mine:
            raise UsageError(f"another process is running a study in {out}", hint="wait for it")
        notes, filled_in = _features(study, out, report)
        runs = plan_runs(study, out, filled_in, device=device)
        progress = _Results(study, out, notes)
        for run in runs:  # the table is whole from the start; each run is still looked at below
            progress.keep(run, _earlier_result(run))
        chosen = [run for run in runs if not study.only or run.row in study.only]
        with Progress(len(chosen), what="study", unit="run") as bar:
            tasks = run_tasks(
                run_one,
                chosen,
                scheduler="serial" if workers == 1 else "dask",
                workers=None if workers == 1 else workers,
            )
            for result in tasks:
                progress.add(result.item, result.value, result.error)
                report(progress.last_line)
                bar.advance()
        return StudyReport(progress.table(), tuple(progress.failures), out)


def plan_runs(
    study: Study, out: Path, filled_in: Sequence[str] = (), *, device: str
) -> list[StudyRun]:
    """All runs: baselines, then the variants with the first seed, with the second, and so on.

    Args:
        study: What to run.
        out: Folder of the study.
        filled_in: Changes that come from its simulation.
        device: Where models run.
    """
    runs = []
    for name in study.baselines:
        folder = str((out / "runs" / name).absolute())
        changes = (*study.overrides, *filled_in)
        runs.append(StudyRun(name, None, _trial(study, changes, folder, device), folder, True))
    for seed in study.seeds:
        for variant in study.variants:
            folder = str((out / "runs" / variant.folder / f"seed-{seed}").absolute())
            changes = (*study.overrides, *variant.overrides, *filled_in, f"train.seed={seed}")
            runs.append(
                StudyRun(variant.name, seed, _trial(study, changes, folder, device), folder)
            )
    return runs


def _trial(study: Study, changes: tuple[str, ...], folder: str, device: str) -> Trial:
    return Trial(str(study.base), (*changes, f"output.folder={json.dumps(folder)}"), device)


def run_one(run: StudyRun) -> dict[str, Any]:
    """Do one run of a study and leave its result in its folder.

    Returns:
        As `workflows.study.trial.run_trial`.

    Raises:
        PipelineError: It fails.
    """
    metrics = run_baseline(run.trial) if run.baseline else run_trial(run.trial)
    write_json(Path(run.folder) / RESULT, {"changes": run.trial.overrides, "metrics": metrics})
    return metrics


def _earlier_result(run: StudyRun) -> dict[str, Any] | None:
    """What an earlier call left of this very run; None where there is nothing whole.

    Nor where the base has other thresholds by now: their mean cannot stand beside that of the rest.
    """
    try:
        value = json.loads((Path(run.folder) / RESULT).read_text("utf-8"))
        same = value["changes"] == list(run.trial.overrides)
        metrics: dict[str, Any] = value["metrics"]
        tiou = list(metrics["scores"]["tiou"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = load_recipe(run.trial.config, overrides=run.trial.overrides).eval.tiou
    return metrics if same and tiou == list(wanted) else None


def run_baseline(trial: Trial) -> dict[str, Any]:
    """The whole-video classifier on a recipe's data; takes seconds, so it is never resumed.

    Returns:
        Like ``metrics.json``; also written to the run's folder.
    """
    recipe = load_recipe(trial.config, overrides=trial.overrides)
    labels = load_annotations(recipe.data.annotations, bad_rows="drop")
    store = FeatureStore.open(recipe.data.features)
    train, test = (
        SplitDataset(
            store,
            labels.subset(subset),
            labels.classes,
            modalities=recipe.data.modalities,
            bad_rows="drop",
        )
        for subset in (recipe.data.train, recipe.data.test)
    )
    found = evaluate_whole_video(train, test, labels.classes, tiou=recipe.eval.tiou)
    metrics = found.to_json()
    write_json(recipe.output.folder / "metrics.json", metrics)
    return metrics


def _features(
    study: Study, out: Path, report: Callable[[str], None]
) -> tuple[list[str], tuple[str, ...]]:
    """Simulate where the study asks for it: notes for the table, changes of the recipe."""
    if study.simulation is None:
        return [], ()
    recipe = load_recipe(study.base, overrides=study.overrides)
    report("simulating features")
    with ExitStack() as stack:
        bars: list[Progress] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(total, what="simulating")))
            bars[0].advance()

        made = simulate(
            recipe.data.annotations, out / "simulation", study.simulation, progress=show
        )
    report(made.describe())
    values = {
        "data.annotations": str(made.annotations.absolute()),
        "data.features": str(made.features.absolute()),
        "backbone.name": made.backbone,
    }
    note = f"Features simulated on {recipe.data.annotations.name}: {made.describe()}."
    return [note], tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


class _Results:
    """Gathers what runs return and writes the table each time."""

    def __init__(self, study: Study, out: Path, notes: Sequence[str]) -> None:
        self._study, self._out, self._notes = study, out, list(notes)
        self._metrics: dict[str, dict[int, Any]] = {
            **{variant.name: {} for variant in study.variants},
            **{name: {} for name in study.baselines},
        }
        self.failures: list[str] = []
        self.last_line = ""

    def keep(self, run: StudyRun, metrics: dict[str, Any] | None) -> None:
        """Note the result of one run, if there is one."""
        if metrics is not None:
            self._metrics[run.row] |= dict.fromkeys(self._seeds(run), metrics)

    def add(
        self, run: StudyRun, metrics: dict[str, Any] | None, error: BaseException | None
    ) -> None:
        """Take the end of one run."""
        name = run.row if run.seed is None else f"{run.row}, seed {run.seed}"
        if metrics is None:
            reason = error or PipelineError("its process died")
            self.failures.append(f"{name}: {reason}")
            self.last_line = f"failed: {self.failures[-1]}"
            for seed in self._seeds(run):  # what an earlier call left may be of other data
                self._metrics[run.row].pop(seed, None)
        else:
            self.keep(run, metrics)
            self.last_line = f"{name}: Avg mAP {100 * metrics['scores']['average_mAP']:.2f}"
        self.table().write(self._out)

    def _seeds(self, run: StudyRun) -> Sequence[int]:
        """Those that a run stands for: its own, or all for a baseline."""
        return self._study.seeds if run.seed is None else (run.seed,)

    def table(self) -> StudyTable:
        """The table so far."""
        rows = [
            StudyRow(name, {seed: runs[seed] for seed in self._study.seeds if seed in runs})
            for name, runs in self._metrics.items()
        ]
        notes = list(self._notes)
        if self._study.baselines:
            notes.append("Baselines have no seed; their difference is to each seed's first row.")
        return StudyTable(self._study.path.stem, rows, self._study.seeds, notes)


def _folder(out: Path) -> Path:
    """The folder of the study, made when missing.

    Raises:
        UsageError: It cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{os.fspath(out)} cannot be made: {error.strerror}") from error
    return out
