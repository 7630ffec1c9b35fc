"""Few segments, and a weak model's events for the rest: what is read, kept and learned from."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

import extractors.registry
import workflows.weak.semi
from model.checkpoint import load_network, read_card, save_checkpoint
from model.loco import LoCo
from pipeline.cli import main
from pipeline.config import load_recipe
from pipeline.core.errors import CheckpointError, ConfigError
from pipeline.recipe import Recipe
from tests.fixtures.planted import CLASSES, PLANTED, SPEC, plant
from workflows.annotations import load_annotations
from workflows.stages import run_stages
from workflows.weak.pseudo_labels import Answer
from workflows.weak.semi import start_from_teacher

TRAIN = 20
WEAK: dict[str, Any] = {
    "data": {"annotations": "taken over", "features": "taken over"},
    "model": {"method": "clasp", "channels": 16, "unimodal_blocks": 1, "max_seq_len": 72},
    "optim": {"lr": 8e-3, "epochs": 5, "warmup_epochs": 1},
    "train": {"batch_size": 4, "seed": 77},
    "output": {"folder": "taken over"},
}
STRONG: dict[str, Any] = {
    "backbone": {"name": "planted"},
    "model": {
        "channels": 16,
        "decoder_channels": 16,
        "unimodal_blocks": 1,
        "levels": 3,
        "max_seq_len": 72,
    },
    "loss": {"normaliser": 20},
    "optim": {"lr": 4e-3, "epochs": 2, "warmup_epochs": 0},
    "train": {"batch_size": 4, "seed": 3},
    "semi_weak": {
        "teacher": "weak.yaml",
        "min_score": 0.2,
        "event_targets": "hard",
        "warm_start": False,
    },
}


@pytest.fixture(autouse=True, scope="module")
def planted_backbone() -> Iterator[None]:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("planted"), train=TRAIN)


def recipe_of(
    folder: Path, planted: tuple[Path, Path], *overrides: str, labels: Path | None = None
) -> Recipe:
    folder.mkdir(exist_ok=True)
    (folder / "weak.yaml").write_text(yaml.safe_dump(WEAK))
    data = {
        "features": str(planted[0]),
        "annotations": str(labels or planted[1]),
        "validation": "",
    }
    content = {"data": data, "output": {"folder": "run"}, **STRONG}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return load_recipe(folder / "recipe.yaml", overrides=overrides)


def share(fraction: float) -> str:
    return f"semi_weak.strong_fraction={fraction}"


def train(recipe: Recipe, *, resume: bool = False) -> str:
    return run_stages(recipe, stage="train", device="cpu", resume=resume).rows[0].outcome


@pytest.fixture(scope="module")
def trained(
    planted: tuple[Path, Path], planted_backbone: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_of(folder, planted, share(0.25))
    report = run_stages(recipe, device="cpu")
    assert [row.outcome for row in report.rows] == ["left out", "done", "done", "left out"]
    assert "annotated events of 5 videos" in report.format_table()
    return folder / "run"


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "best.safetensors")


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    return all(np.array_equal(left[key], right[key]) for key in left)


def said(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / "semi_weak.json").read_text())
    return value


def test_the_run_names_its_strong_videos_and_keeps_what_it_was_trained_on(
    trained: Path, planted: tuple[Path, Path]
) -> None:
    kept, truth = said(trained), load_annotations(planted[1])
    assert len(kept["strong"]) == 5 and kept["strong_fraction"] == 0.25
    shown = {label for id in kept["strong"] for label in truth.videos[id].classes}
    assert shown == set(CLASSES)
    learned = load_annotations(trained / "semi_weak.json")
    for id, video in learned.videos.items():
        if id in kept["strong"]:
            assert video.events == truth.videos[id].events
        else:
            assert bool(video.events) == bool(truth.videos[id].events)
            assert set(video.classes) <= set(truth.videos[id].classes)
            assert not video.events or video.events != truth.videos[id].events
    card = read_card(trained / "best.safetensors")
    assert card.method == "loco" and card.data["strong_fraction"] == 0.25


def test_the_teacher_learned_from_the_same_videos_with_the_same_seed(trained: Path) -> None:
    _, card = load_network(trained / "teacher" / "best.safetensors")
    assert card.method == "clasp" and card.classes == CLASSES
    resolved = load_recipe(trained / "teacher" / "recipe.yaml")
    assert resolved.train.seed == STRONG["train"]["seed"] != WEAK["train"]["seed"]
    assert resolved.data == load_recipe(trained / "recipe.yaml").data


def spoiled(
    planted: tuple[Path, Path], strong: set[str], path: Path, *, strong_too: bool = False
) -> Path:
    """Annotations whose training videos have senseless segments, or none, but for strong ones."""
    order = random.Random(0)
    database = json.loads(planted[1].read_text())["database"]
    for id, entry in database.items():
        if entry["subset"] != "train":
            continue
        for row in entry["annotations"]:
            if id not in strong:
                row["segment"] = order.choice([[-5, 1e9], "never", None, [0.1, 0.2]])
            elif strong_too:
                row["segment"][1] -= (row["segment"][1] - row["segment"][0]) / 2
    path.write_text(json.dumps({"database": database}))
    return path


def test_segments_of_weak_videos_decide_nothing_and_those_of_strong_ones_do(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    strong = set(said(trained)["strong"])
    for name, too in (("weak", False), ("strong", True)):
        labels = spoiled(planted, strong, tmp_path / f"{name}.json", strong_too=too)
        train(recipe_of(tmp_path / name, planted, share(0.25), labels=labels))
    blind, usual = said(tmp_path / "weak" / "run"), said(trained)
    assert blind.pop("mark") != usual.pop("mark"), "the teacher's card names its annotations"
    assert blind == usual
    assert same(tmp_path / "weak" / "run", trained)
    assert not same(tmp_path / "strong" / "run", trained)


DOUBTFUL = {
    "weighted": ("semi_weak.event_targets=weighted",),
    "soft": ("semi_weak.event_targets=soft", "semi_weak.ignore=[0.05, 0.9]"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubt_about_the_teachers_events_comes_from_the_teacher_alone(
    trained: Path,
    planted: tuple[Path, Path],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = (
        share(0.25),
        f"semi_weak.teacher={trained / 'teacher' / 'best.safetensors'}",
        *DOUBTFUL[name],
    )
    strong = set(said(trained)["strong"])
    labels = spoiled(planted, strong, tmp_path / "spoiled.json")
    train(recipe_of(tmp_path / "blind", planted, *changes, labels=labels))
    recipe = recipe_of(tmp_path / "usual", planted, *changes)
    train(recipe)
    blind, usual = tmp_path / "blind" / "run", tmp_path / "usual" / "run"
    assert said(blind) == said(usual) and same(blind, usual)
    assert not same(usual, trained), "the switch is of consequence"
    database = said(usual)["database"]
    scores = {id: [row["score"] for row in database[id]["annotations"]] for id in database}
    assert all(score == 1 for id in strong for score in scores[id])
    assert any(score < 1 for id in scores for score in scores[id])
    doubtful = {id for id in database if database[id]["unsure"]}
    assert bool(doubtful) == (name == "soft") and not doubtful & strong
    with monkeypatch.context() as patch:  # scores and stretches are read back
        patch.setattr(workflows.weak.semi, "pseudo_label", None)
        train(recipe_of(tmp_path / "usual", planted, *changes, "train.drop_last=false"))
    assert said(usual)["database"] == database


def test_without_the_weak_videos_it_is_training_on_the_strong_ones(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    changes = (
        share(0.25),
        "semi_weak.teacher=[]",
        "semi_weak.weak_videos=false",
        "semi_weak.event_targets=soft",
        "semi_weak.warm_start=true",
    )
    strong = set(said(trained)["strong"])
    labels = spoiled(planted, strong, tmp_path / "spoiled.json")
    train(recipe_of(tmp_path / "left_out", planted, *changes, labels=labels))
    assert set(said(tmp_path / "left_out" / "run")["database"]) == strong
    database = json.loads(planted[1].read_text())["database"]
    only = {id: entry for id, entry in database.items() if id in strong}
    (tmp_path / "only.json").write_text(json.dumps({"database": only}))
    alone = recipe_of(
        tmp_path / "alone", planted, "semi_weak.teacher=[]", labels=tmp_path / "only.json"
    )
    train(alone)
    assert same(tmp_path / "left_out" / "run", tmp_path / "alone" / "run")


def test_one_modality_is_enough_where_no_weak_model_is_asked(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    changes = ("semi_weak.teacher=[]", "semi_weak.weak_videos=false", "data.modalities=vision")
    assert train(recipe_of(tmp_path, planted, share(0.25), *changes)) == "done"
    with pytest.raises(ConfigError, match=r"data\.modalities=vision leaves the weak model"):
        recipe_of(tmp_path / "weak", planted, share(0.25), "data.modalities=vision")


def test_a_warm_start_takes_over_what_both_networks_have(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    path = trained / "teacher" / "best.safetensors"
    changes = (share(0.25), f"semi_weak.teacher={path}")
    warm = recipe_of(tmp_path / "warm", planted, *changes, "semi_weak.warm_start=true")
    cold = recipe_of(tmp_path / "cold", planted, *changes)
    teacher = load_network(path)[0].state_dict()
    for recipe in (cold, warm):
        model, _ = load_network(trained / "best.safetensors")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        start_from_teacher(model, recipe)
        now = model.state_dict()
        changed = {key for key in now if not torch.equal(now[key], before[key])}
        assert all(torch.equal(now[key], teacher[key]) for key in changed)
        assert {key.split(".")[0] for key in changed} == (
            {"embed", "unimodal"} if recipe is warm else set()
        )
    train(warm)
    assert not same(tmp_path / "warm" / "run", trained)


def test_a_warm_start_from_another_size_is_refused(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    path = trained / "teacher" / "best.safetensors"
    recipe = recipe_of(
        tmp_path,
        planted,
        share(0.25),
        f"semi_weak.teacher={path}",
        "semi_weak.warm_start=true",
        "model.channels=32",
    )
    with pytest.raises(ConfigError, match="is of another size"):
        train(recipe)


def test_a_teacher_of_another_size_is_not_even_trained(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(
        tmp_path, planted, share(0.25), "semi_weak.warm_start=true", "model.unimodal_blocks=2"
    )
    with pytest.raises(ConfigError, match=r"has another model\.unimodal_blocks"):
        train(recipe)
    assert not (tmp_path / "run" / "teacher").exists()


def test_all_segments_are_training_as_ever(planted: tuple[Path, Path], tmp_path: Path) -> None:
    train(recipe_of(tmp_path / "all", planted, share(1.0)))
    train(recipe_of(tmp_path / "plain", planted, "semi_weak.teacher=[]"))
    assert same(tmp_path / "all" / "run", tmp_path / "plain" / "run")
    assert not (tmp_path / "all" / "run" / "teacher").exists()


def test_without_any_segment_a_list_of_labels_is_enough(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    videos = load_annotations(planted[1]).subset("train")
    rows = [",".join([id, *video.classes]) for id, video in videos.items()]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows))
    teacher = f"semi_weak.teacher={trained / 'teacher' / 'best.safetensors'}"
    train(recipe_of(tmp_path / "none", planted, share(0.0), teacher, labels=labels))
    kept = said(tmp_path / "none" / "run")
    assert kept["strong"] == [] and len(kept["database"]) > TRAIN / 2
    with pytest.raises(ConfigError, match="has no segments"):
        train(recipe_of(tmp_path / "few", planted, share(0.1), teacher, labels=labels))


def test_an_interrupted_run_goes_on_and_asks_the_teacher_no_second_time(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, planted, share(0.25))
    import workflows.training.loop as module

    save = module.save_epoch

    def save_one(*args: Any, **options: Any) -> None:
        save(*args, **options)
        raise KeyboardInterrupt

    shutil.copytree(trained / "teacher", tmp_path / "run" / "teacher")
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_epoch", save_one)
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(workflows.weak.semi, "pseudo_label", None)
        assert train(recipe, resume=True) == "done"
        assert train(recipe) == "unchanged"
    assert same(tmp_path / "run", trained)


def test_another_share_is_another_training(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    recipe = recipe_of(tmp_path, planted, share(0.5), "optim.epochs=1")
    assert train(recipe) == "done"
    assert len(said(tmp_path / "run")["strong"]) == TRAIN / 2
    assert set(said(trained)["strong"]) < set(said(tmp_path / "run")["strong"])


def test_damaged_notes_are_made_again(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "semi_weak.json").write_text('{"mark":')
    assert train(recipe_of(tmp_path, planted, share(0.25))) == "unchanged"
    assert said(tmp_path / "run") == said(trained)


def few_segments(planted: tuple[Path, Path], path: Path, *, annotated: int) -> set[str]:
    """Labels of which a few training videos have segments, and one more has one that cannot be."""
    database = json.loads(planted[1].read_text())["database"]
    training = [
        id for id, entry in database.items() if entry["subset"] == "train" and entry["annotations"]
    ]
    for id in training[annotated:]:
        for row in database[id]["annotations"]:
            del row["segment"]
    database[training[annotated]]["annotations"][0]["segment"] = [3.0, 1.0]
    path.write_text(json.dumps({"database": database}))
    return set(training[:annotated])


def test_the_videos_that_have_segments_are_the_strong_ones(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    annotated = few_segments(planted, labels, annotated=4)
    teacher = f"semi_weak.teacher={trained / 'teacher' / 'best.safetensors'}"
    changes = (teacher, "semi_weak.strong=annotated", "data.test=test")
    recipe = recipe_of(tmp_path / "few", planted, *changes, labels=labels)
    report = run_stages(recipe, device="cpu")
    assert [row.outcome for row in report.rows] == ["left out", "done", "done", "left out"]
    assert "annotated events of 4 videos" in report.format_table()
    kept, truth = said(tmp_path / "few" / "run"), load_annotations(planted[1])
    assert set(kept["strong"]) == annotated and kept["strong_by"] == "annotated"
    learned = load_annotations(tmp_path / "few" / "run" / "semi_weak.json")
    assert all(learned.videos[id].events == truth.videos[id].events for id in annotated)
    card = read_card(tmp_path / "few" / "run" / "best.safetensors")
    assert card.data["strong"] == "annotated"
    train(recipe_of(tmp_path / "two", planted, *changes, share(0.1), labels=labels))
    two = set(said(tmp_path / "two" / "run")["strong"])
    assert len(two) == TRAIN / 10 and two < annotated, "the share is of all training videos"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (("semi_weak.strong=annotated",), "no training video with a segment in each of its rows"),
        ((share(0.5),), "is not two finite seconds(.|\n)*semi_weak.strong=annotated"),
    ],
    ids=["annotated", "random"],
)
def test_missing_segments_are_named_before_the_teacher_is_trained(
    planted: tuple[Path, Path], tmp_path: Path, changes: tuple[str, ...], problem: str
) -> None:
    labels = tmp_path / "labels.json"
    few_segments(planted, labels, annotated=0)
    with pytest.raises(ConfigError) as caught:
        train(recipe_of(tmp_path, planted, *changes, labels=labels))
    assert re.search(problem, f"{caught.value} {caught.value.hint}")
    assert not (tmp_path / "run" / "teacher").exists()


def test_a_strong_video_of_which_all_rows_are_dropped_is_no_strong_one(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    strong = set(said(trained)["strong"])
    spoiled(planted, set(json.loads(planted[1].read_text())["database"]) - strong, labels)
    database = json.loads(labels.read_text())["database"]
    lost = next(id for id in sorted(strong) if database[id]["annotations"])
    for id in strong - {lost}:
        database[id] = json.loads(planted[1].read_text())["database"][id]
    for row in database[lost]["annotations"]:
        row["segment"] = None
    labels.write_text(json.dumps({"database": database}))
    teacher = f"semi_weak.teacher={trained / 'teacher' / 'best.safetensors'}"
    changes = (share(0.25), teacher, "data.bad_rows=drop")
    train(recipe_of(tmp_path / "drop", planted, *changes, labels=labels))
    kept = said(tmp_path / "drop" / "run")
    assert set(kept["strong"]) == strong - {lost}
    assert kept["database"][lost]["annotations"], "the teacher's"


def test_videos_without_labels_stay_as_background(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    truth = load_annotations(planted[1]).subset("train")
    database = json.loads(planted[1].read_text())["database"]
    id = next(id for id in truth if id not in said(trained)["strong"] and truth[id].events)
    database[id]["annotations"] = []
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"database": database}))
    teacher = f"semi_weak.teacher={trained / 'teacher' / 'best.safetensors'}"
    recipe = recipe_of(tmp_path / "empty", planted, share(0.25), teacher, labels=labels)
    report = run_stages(recipe, stage="train", device="cpu")
    learned = said(tmp_path / "empty" / "run")["database"]
    assert learned[id]["annotations"] == []
    silent = sum(not entry["annotations"] for entry in learned.values())
    assert f"{silent} more without any label" in report.format_table()


def test_a_teacher_that_finds_nothing_is_named_as_the_reason(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(*args: Any) -> Any:
        return lambda id: Answer((), {}, SPEC.grid)

    monkeypatch.setattr(workflows.weak.semi, "_finder", deaf)
    teacher = f"semi_weak.teacher={trained / 'teacher' / 'best.safetensors'}"
    with pytest.raises(ConfigError, match="the teacher found none") as caught:
        train(recipe_of(tmp_path, planted, share(0), teacher))
    assert "train it longer" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("semi_weak.teacher=[]", "needs semi_weak.teacher"),
        ("model.method=clasp", "is of no use to model.method=clasp"),
        ("data.validation=validation", "leaves no segments of data.validation"),
        ("semi_weak.teacher=[a.yaml, b.yaml]", "one recipe or checkpoint"),
        (share(1.5), "must be in"),
        ("semi_weak.ignore=[0.5]", "two rising shares"),
        ("semi_weak.ignore=[0.5, 0.2]", "two rising shares"),
        ("semi_weak.event_targets=fuzzy", "not one of hard, weighted, soft"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    planted: tuple[Path, Path], tmp_path: Path, override: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        recipe_of(tmp_path, planted, share(0.1), override)


def test_neither_strong_nor_weak_videos_are_nothing_to_learn_from(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    alone = "semi_weak.weak_videos=false"
    with pytest.raises(ConfigError, match="leave nothing to learn from"):
        recipe_of(tmp_path, planted, share(0), alone)


def test_a_teacher_that_has_seen_segments_is_refused(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint = f"semi_weak.teacher={trained / 'best.safetensors'}"
    with pytest.raises(CheckpointError, match="method 'loco', which has seen segments"):
        train(recipe_of(tmp_path, planted, share(0.1), checkpoint))
    (tmp_path / "strong.yaml").write_text((tmp_path / "recipe.yaml").read_text())
    with pytest.raises(ConfigError, match="trains 'loco', which needs all segments"):
        train(
            recipe_of(
                tmp_path, planted, share(0.1), f"semi_weak.teacher={tmp_path / 'strong.yaml'}"
            )
        )


def test_a_teacher_of_other_classes_is_refused(
    trained: Path, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    model, card = load_network(trained / "teacher" / "best.safetensors")
    assert not isinstance(model, LoCo)
    from dataclasses import replace

    other = replace(card, classes=("bell", "dog", "horn"))
    save_checkpoint(tmp_path / "other.safetensors", model.state_dict(), other)
    recipe = recipe_of(
        tmp_path, planted, share(0.1), f"semi_weak.teacher={tmp_path / 'other.safetensors'}"
    )
    with pytest.raises(CheckpointError, match="'drum'"):
        train(recipe)


def test_the_share_is_an_argument_of_the_command(
    trained: Path,
    planted: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe_of(tmp_path, planted, "semi_weak.teacher=[]")
    shutil.copytree(trained / "teacher", tmp_path / "run" / "teacher")
    config = str(tmp_path / "recipe.yaml")
    words = ["run", "--stage", "train", "--config", config, "--device", "cpu"]
    assert main([*words, "--set", "optim.epochs=1", "--strong-fraction", "0.1"]) == 0
    assert len(said(tmp_path / "run")["strong"]) == TRAIN / 10
    assert "annotated events of 2 videos" in capsys.readouterr().out
    assert main([*words, "--strong-fraction", "2"]) == 2
