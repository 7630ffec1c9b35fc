"""A study: checked before it runs, resumable, and its table is arithmetic that one can follow."""

from __future__ import annotations

import csv
import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import workflows.study.run
import workflows.training.loop
from pipeline.cli import main
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, PipelineError, UsageError
from pipeline.core.locks import LockFile
from tests.fixtures.annotated import write_annotations
from workflows.study.file import Study, load_study
from workflows.study.run import plan_runs, run_study
from workflows.study.table import StudyRow, StudyTable
from workflows.study.trial import Trial, run_trial

STUDIES = sorted((Path(workflows.__file__).parent / "recipes" / "studies").glob("*.yaml"))
RECIPE = {
    "data": {"annotations": "labels.json", "features": "features", "validation": ""},
    "model": {
        "channels": 8,
        "heads": 2,
        "decoder_channels": 8,
        "unimodal_blocks": 0,
        "levels": 2,
        "max_seq_len": 80,
        "embedding_layers": 1,
    },
    "optim": {"epochs": 2, "warmup_epochs": 1},
    "train": {"batch_size": 4},
    "output": {"folder": "run"},
}
STUDY: dict[str, Any] = {
    "base": "recipe.yaml",
    "seeds": [0, 1],
    "simulation": {
        "train": 6, "validation": 0, "test": 3, "vision_dim": 6, "audio_dim": 4, "noise": 1.0
    },
    "baselines": ["whole-video"],
    "variants": {"LoCo": {}, "no fusion": {"model.fusion": "none", "loss.correspondence": "none"}},
}  # fmt: skip


def write_study(folder: Path, **changes: Any) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    value = {**STUDY, **changes}
    path = folder / "study.yaml"
    path.write_text(
        yaml.safe_dump({k: v for k, v in value.items() if v is not None}, sort_keys=False)
    )
    return path


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_annotations(tmp_path, train=8, validation=2, test=4)
    return load_study(write_study(tmp_path))


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_bundled_study_can_be_run(path: Path) -> None:
    study = load_study(path)
    assert len(study.variants) >= 2
    assert path.read_text("utf-8").startswith(f"# pipeline study --config studies/{path.name} ")


def test_the_full_size_simulation_is_that_of_the_real_data() -> None:
    full = next(path for path in STUDIES if path.stem == "simulated_full")
    simulation = load_study(full).simulation
    assert simulation is not None
    assert (simulation.train, simulation.test, simulation.classes) == (-1, -1, -1)
    assert (simulation.vision_dim, simulation.audio_dim) == (1536, 1536)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = write_study(
        tmp_path,
        seeds=[1, 1],
        baselines=["whole-vide"],
        simulation={"train": 0, "nosie": 2.0},
        variants={
            "LoCo": {},
            "loco": {},
            "typo": {"model.fuson": "none"},
            "value": {"model.fusion": "globl", "model.heads": 3},
            "ours": {"train.seed": 4},
            "list": [1],
            "nested": {"train": {"seed": 4}},
            "judged": {"eval.tiou": [0.5]},
        },
    )
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    for said in (
        r"seeds: [1, 1] must be different whole numbers",
        "baselines: ['whole-vide'] must be names among whole-video",
        "simulation.nosie: unknown key; did you mean 'noise'?",
        "simulation.train: 0 must be at least 1",
        "variants 'LoCo' and 'loco' would share the folder loco",
        "variant 'typo': model.fuson: unknown key; did you mean 'fusion'?",
        "variant 'value': model.fusion: 'globl' is not one of",
        "variant 'ours': train.seed is set by the study",
        "variant 'list': holds [1], not keys with values",
        "variant 'nested': train.seed is set by the study",
        "variant 'judged': eval.tiou must be the same in all rows",
    ):
        assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_mistake_of_the_base_is_said_once(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "modle": {}}))
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert str(caught.value).count("did you mean 'model'") == 1


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base: the recipe .*nowhere.yaml does not exist"):
        load_study(write_study(tmp_path, base="nowhere.yaml"))


def test_changes_for_all_reach_recipe_and_simulation_and_a_variant_wins(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    changed = load_study(
        path, overrides=["model.fusion=fixed", "simulation.train=3"], seeds=[7], only=["no fusion"]
    )
    assert changed.simulation is not None
    assert changed.simulation.train == 3
    runs = plan_runs(changed, tmp_path / "out", device="cpu")
    assert [run.seed for run in runs] == [None, 7, 7]
    run = runs[-1]
    order = [text for text in run.trial.overrides if text.startswith("model.fusion")]
    assert order == ["model.fusion=fixed", 'model.fusion="none"']


def test_a_variant_may_be_written_as_sections_and_keeps_the_rest_of_them(tmp_path: Path) -> None:
    variants = {"flat": {"model.fusion": "none"}, "nested": {"model": {"fusion": "none"}}}
    plans = plan_runs(load_study(write_study(tmp_path, variants=variants)), tmp_path, device="cpu")
    models = [
        load_recipe(run.trial.config, overrides=run.trial.overrides).model
        for run in plans
        if not run.baseline
    ]
    assert models[0] == models[1]
    assert models[0].fusion == "none"
    assert models[0].channels == RECIPE["model"]["channels"]


def test_a_study_of_real_features_cannot_be_made_a_simulated_one_by_the_way(tmp_path: Path) -> None:
    path = write_study(tmp_path, simulation=None)
    with pytest.raises(ConfigError, match="the study has no simulation"):
        load_study(path, overrides=["simulation.noise=2"])


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'LoCo'.* LoCo, no fusion, whole-video"):
        load_study(write_study(tmp_path), only=["Loco"])


# --- running --------------------------------------------------------------------------------------


def stamps(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}


def averages(table: StudyTable) -> list[dict[int, float]]:
    return [dict(row.average.values) for row in table.rows]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One variant, two seeds."""
    folder = tmp_path_factory.mktemp("small")
    write_annotations(folder, train=8, validation=2, test=4)
    return load_study(write_study(folder, variants={"LoCo": {}}, baselines=[]))


@pytest.fixture(scope="module")
def small_table(small: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyTable]:
    out = tmp_path_factory.mktemp("whole")
    return out, run_study(small, out, device="cpu").table


def test_a_study_fills_its_table_part_by_part_and_trains_nothing_twice(
    study: Study, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    part = run_study(replace(study, only=("LoCo", "whole-video")), out, device="cpu")
    assert part.exit_code == 0
    assert [len(row.metrics) for row in part.table.rows] == [2, 0, 2]
    trained = stamps(out)
    assert len(trained) == 2
    whole = run_study(study, out, device="cpu").table
    assert [(row.name, len(row.metrics)) for row in whole.rows] == [
        ("LoCo", 2), ("no fusion", 2), ("whole-video", 2)
    ]  # fmt: skip
    assert trained.items() < stamps(out).items()
    difference = whole.difference(whole.rows[1])
    assert difference is not None
    assert set(difference.values) == {0, 1}
    written = json.loads((out / "table.json").read_text())
    metrics = json.loads((out / "runs/no-fusion/seed-1/metrics.json").read_text())["scores"]
    assert written["rows"][1]["average_mAP"]["by_seed"]["1"] == metrics["average_mAP"]
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["name"] for row in rows] == ["LoCo"] * 2 + ["no fusion"] * 2 + ["whole-video"] * 2
    assert float(rows[3]["average_mAP"]) == metrics["average_mAP"]
    assert "3 classes, videos: 6 train, 0 validation, 3 test" in (out / "table.md").read_text()


def test_seeds_give_different_models_and_the_same_seed_the_same(
    small: Study, small_table: tuple[Path, StudyTable], tmp_path: Path
) -> None:
    run_study(replace(small, seeds=(1,)), tmp_path, device="cpu")
    first, second, again = (
        (folder / f"runs/loco/seed-{seed}/predictions.json").read_text()
        for folder, seed in ((small_table[0], 0), (small_table[0], 1), (tmp_path, 1))
    )
    assert second == again != first


def test_a_run_that_fails_costs_only_itself_and_is_made_up_later(
    small: Study,
    small_table: tuple[Path, StudyTable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail_once(trial: Trial) -> dict[str, Any]:
        if "train.seed=0" in trial.overrides:
            raise PipelineError("the loss is nan")
        return run_trial(trial)

    monkeypatch.setattr(workflows.study.run, "run_trial", fail_once)
    broken = run_study(small, tmp_path, device="cpu")
    assert broken.exit_code == 1
    assert "failed: LoCo, seed 0: the loss is nan" in broken.format_table()
    assert "LoCo (1 of 2)" in (tmp_path / "table.md").read_text()
    trained = stamps(tmp_path)
    monkeypatch.undo()
    whole = run_study(small, tmp_path, device="cpu")
    assert whole.exit_code == 0
    assert trained.items() < stamps(tmp_path).items()
    assert averages(whole.table) == averages(small_table[1])


def test_a_run_that_fails_now_shows_no_score_of_an_earlier_call(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was made from may have changed since: that is how it may have come to fail."""
    out = tmp_path / "out"
    run_study(replace(small, seeds=(0,)), out, device="cpu")

    def fail(trial: Trial) -> dict[str, Any]:
        raise PipelineError("the features are gone")

    monkeypatch.setattr(workflows.study.run, "run_trial", fail)
    broken = run_study(replace(small, seeds=(0,)), out, device="cpu")
    assert not broken.table.rows[0].metrics
    assert json.loads((out / "table.json").read_text())["rows"] == [{"name": "LoCo", "runs": 0}]


def test_scores_at_other_thresholds_are_not_mixed_into_the_table(tmp_path: Path) -> None:
    """The base was changed between two calls, and only a part is run again."""
    write_annotations(tmp_path, train=8, validation=2, test=4)
    path = write_study(tmp_path, baselines=[], seeds=[0])
    out = tmp_path / "out"
    run_study(load_study(path), out, device="cpu")
    changed = {**RECIPE, "eval": {"tiou": [0.5, 0.75]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed))
    report = run_study(load_study(path, only=["LoCo"]), out, device="cpu")
    assert report.exit_code == 0
    assert [len(row.metrics) for row in report.table.rows] == [1, 0]
    assert report.table.rows[0].tiou == [0.5, 0.75]


def test_a_killed_run_goes_on_to_the_same_scores(
    small: Study,
    small_table: tuple[Path, StudyTable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = workflows.training.loop.save_epoch

    def kill(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(workflows.training.loop, "save_epoch", kill)
    with pytest.raises(KeyboardInterrupt):
        run_study(small, tmp_path, device="cpu")
    monkeypatch.undo()
    state = json.loads((tmp_path / "runs/loco/seed-0/state.json").read_text())
    assert state["epoch"] == 1
    resumed = run_study(small, tmp_path, device="cpu").table
    assert averages(resumed) == averages(small_table[1])


def test_two_processes_do_not_run_one_study(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with LockFile(out / "locks").hold("study", wait=True):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        with pytest.raises(UsageError, match="another process is running a study"):
            run_study(study, out, device="cpu")
    finally:
        done.set()
        thread.join()


def test_the_command_prints_the_table_and_fails_on_a_wrong_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_annotations(tmp_path, train=8, validation=2, test=4)
    path = write_study(tmp_path)
    words = ["study", "--config", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--seeds", "3", "--only", "LoCo", "--set", "optim.epochs=2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^\| LoCo +\| +\d", shown, re.MULTILINE)
    assert (tmp_path / "out/runs/loco/seed-3/best.safetensors").exists()
    assert main([*words, "--set", "model.fuson=none"]) == 2
    assert "did you mean 'fusion'" in capsys.readouterr().err


# --- the table ------------------------------------------------------------------------------------


def metrics(average: float, **extra: Any) -> dict[str, Any]:
    scores = {"tiou": [0.1, 0.5, 0.9], "mAP": [0.9, average, 0.1], "average_mAP": average}
    return {"scores": scores, **extra}


def test_differences_are_paired_by_seed_and_deviations_are_of_a_sample() -> None:
    first = StudyRow("LoCo", {0: metrics(0.50), 1: metrics(0.60), 2: metrics(0.70)})
    second = StudyRow("other", {0: metrics(0.48), 2: metrics(0.70)})
    table = StudyTable("study", [first, second], [0, 1, 2])
    assert first.average.mean == pytest.approx(0.6)
    assert first.average.deviation == pytest.approx(0.1)
    difference = table.difference(second)
    assert difference is not None
    assert difference.values == pytest.approx({0: -0.02, 2: 0.0})
    assert difference.mean == pytest.approx(-0.01)  # not 0.59 - 0.60 of unequal seeds
    assert table.difference(first) is None


def test_the_markdown_shows_percent_parameters_seconds_and_what_is_missing() -> None:
    rows = [
        StudyRow("LoCo", {0: metrics(0.5, parameters=2_500_000, seconds=61.4)}),
        StudyRow("other", {}),
    ]
    lines = StudyTable("study", rows, [0]).format_markdown().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert cells[0] == ["", "0.5", "0.9", "Avg", "Δ Avg", "params (M)", "s"]
    assert cells[2] == ["LoCo", "50.00", "10.00", "50.00", "", "2.50", "61"]
    assert cells[3] == ["other", "-", "-", "-", "-", "-", "-"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_a_table_without_any_run_can_be_written(tmp_path: Path) -> None:
    StudyTable("study", [StudyRow("LoCo", {})], [0]).write(tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == [
        {"name": "LoCo", "runs": 0}
    ]
