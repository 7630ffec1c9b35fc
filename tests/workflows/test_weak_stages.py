"""CLASP from a recipe: trained on classes of videos, measured on segments, used on a CSV."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import extractors.registry
from extractors.storage.store import FeatureStore
from model.checkpoint import load_network
from model.clasp import CLASP
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, StoreError
from pipeline.core.events import AGREEMENT, ground_truth_events
from pipeline.recipe import Recipe
from tests.fixtures.planted import AUDIO_DIM, PLANTED, SPEC, VISION_DIM, add_video, noise
from workflows.detection.predict import TrainedDetector
from workflows.evaluate import read_results, score
from workflows.metrics import mean_average_precision, whole_video_baseline
from workflows.quality.runs import load_runs
from workflows.stages import run_stages
from workflows.weak.predict import WeakPredictor

CLASSES = ("bell", "cat", "dog", "drum", "horn", "rain")
RECIPE: dict[str, Any] = {
    "backbone": {"name": "planted"},
    "model": {
        "method": "clasp",
        "channels": 24,
        "unimodal_blocks": 1,
        "max_seq_len": 64,
        "drop_path": 0.0,
    },
    "optim": {"lr": 4e-3, "epochs": 16, "warmup_epochs": 1},
    "train": {"batch_size": 8, "validate_every": 8, "seed": 3, "keep": 0.0},
}


@pytest.fixture(autouse=True, scope="module")
def planted_backbone() -> Iterator[None]:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store, and annotations of videos of one event each, with one-sided decoys of others."""
    folder = tmp_path_factory.mktemp("weak")
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(len(CLASSES), VISION_DIM))
    heard = rng.normal(size=(len(CLASSES), AUDIO_DIM))
    store = FeatureStore.create(folder / "store", SPEC)
    database = {}
    for number in range(68):
        subset = "train" if number < 48 else "validation" if number < 56 else "test"
        rows = noise(rng, 48)
        event, only_seen, only_heard = rng.permutation(len(CLASSES))[:3]
        places = [slice(3 + 15 * third, 13 + 15 * third) for third in rng.permutation(3)]
        rows["vision"][places[0]] += seen[event]
        rows["audio"][places[0]] += heard[event]
        rows["vision"][places[1]] += seen[only_seen]
        rows["audio"][places[2]] += heard[only_heard]
        ends = np.array([places[0].start - 0.5, places[0].stop - 0.5])
        id = f"{number:02d}.mp4"
        duration = add_video(store, id, rows)
        row = {"segment": SPEC.grid.to_seconds(ends).tolist(), "label": CLASSES[event]}
        database[id] = {"duration": duration, "subset": subset, "annotations": [row]}
    return folder / "store", database


def recipe_of(
    folder: Path, store: Path, labels: str, *overrides: str, name: str = "labels.json"
) -> Recipe:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(labels)
    data = {"features": str(store), "annotations": name}
    content = {"data": data, "output": {"folder": "run"}, **RECIPE}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return load_recipe(folder / "recipe.yaml", overrides=overrides)


@pytest.fixture(scope="module")
def trained(
    planted: tuple[Path, dict[str, Any]],
    planted_backbone: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    store, database = planted
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_of(folder, store, json.dumps({"database": database}))
    report = run_stages(recipe, device="cpu")
    assert [f"{row.stage} {row.outcome}" for row in report.rows] == [
        "extract left out",
        "train done",
        "eval done",
        "detect left out",
    ]
    assert "no segment is read" not in report.format_table()
    return folder / "run"


def test_it_localises_better_than_its_own_whole_video_answer(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    found = metrics["scores"]["average_mAP"]
    assert found > metrics["whole_video_baseline"]["average_mAP"] + 0.1
    bounds = metrics["bounds"]
    assert bounds["oracle activity, 0.25 s grid"]["average_mAP"] == pytest.approx(1.0, abs=0.02)
    assert bounds["whole video, oracle labels"]["average_mAP"] < 0.3
    places = metrics["anchors"]
    assert places["videos"] == 12 and places["activation_auc"] > 0.7 > places["true_steps"]


def test_the_checkpoint_is_of_clasp_and_was_chosen_by_what_happens_in_videos(
    trained: Path,
) -> None:
    model, card = load_network(trained / "best.safetensors")
    assert isinstance(model, CLASP) and card.method == "clasp" and card.classes == CLASSES
    assert card.metrics["validation_mAP"] > 0.6
    assert "threshold" not in card.metrics, "to know one would take segments"


def test_the_checkpoint_detects_in_videos_it_has_not_seen(
    trained: Path, planted: tuple[Path, dict[str, Any]]
) -> None:
    detector = TrainedDetector(trained / "best.safetensors", device="cpu", min_score=0.3)
    store, hits = FeatureStore.open(planted[0]), 0
    tests = {id: entry for id, entry in planted[1].items() if entry["subset"] == "test"}
    for id, entry in tests.items():
        found = detector.detections(store.read(id), video=id)
        start, end = entry["annotations"][0]["segment"]
        label = entry["annotations"][0]["label"]
        hits += any(
            event.label == label
            and min(end, event.end) - max(start, event.start) > 0.5 * (end - start)
            for event in found.events
        )
        assert found.detector == "CLASP (best.safetensors)"
        assert found.curves is not None and found.curves.labels[-1] == AGREEMENT
    assert hits >= len(tests) / 2


def test_segments_decide_nothing_in_training_and_those_of_the_test_videos_are_enough_to_measure(
    planted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, database = planted
    spoilt = json.loads(json.dumps(database))
    order = random.Random(0)
    for entry in spoilt.values():
        if entry["subset"] != "test":
            for row in entry["annotations"]:
                row["segment"] = order.choice([[-5, 1e9], "never", None, [order.random(), 2.0]])
    for name, content in (("true", database), ("spoilt", spoilt)):
        labels = json.dumps({"database": content})
        recipe = recipe_of(tmp_path / name, store, labels, "optim.epochs=2")
        run_stages(recipe, device="cpu")
    metrics = [
        json.loads((tmp_path / folder / "run" / "metrics.json").read_text())
        for folder in ("true", "spoilt")
    ]
    assert metrics[0] == metrics[1] and "bounds" in metrics[0]
    one, other = load_runs([tmp_path / folder / "run" for folder in ("true", "spoilt")])
    assert one.truth is not None and one.truth == other.truth, "a report compares the two"
    for name in ("best", "last"):
        one, other = (
            load_file(tmp_path / folder / "run" / f"{name}.safetensors")
            for folder in ("true", "spoilt")
        )
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_csv_of_labels_is_enough_to_train_and_too_little_to_measure(
    planted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, database = planted
    rows = [f"{id},{entry['annotations'][0]['label']}" for id, entry in database.items()]
    recipe = recipe_of(
        tmp_path, store, "\n".join(["file,label", *rows]), "optim.epochs=2", name="labels.csv"
    )
    report = run_stages(recipe, device="cpu")
    assert [row.outcome for row in report.rows] == ["left out", "done", "left out", "left out"]
    assert "no segments" in report.format_table()
    _, card = load_network(tmp_path / "run" / "best.safetensors")
    assert card.classes == CLASSES
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    change = f"data.annotations={tmp_path / 'truth.json'}"
    other = load_recipe(tmp_path / "recipe.yaml", overrides=(change, "data.test=test"))
    (row,) = run_stages(other, stage="eval", device="cpu").rows
    assert row.outcome == "done" and "anchors of windows there" in row.detail


def test_a_stage_before_its_turn_says_which_comes_first(tmp_path: Path) -> None:
    recipe = recipe_of(
        tmp_path, tmp_path / "none", "a.mp4,dog\n", "data.videos=[videos]", name="labels.csv"
    )
    with pytest.raises(StoreError, match="holds no feature store") as caught:
        run_stages(recipe, stage="train", device="cpu")
    assert "--stage all" in str(caught.value.hint)


def test_an_interrupted_training_ends_as_an_undisturbed_one(
    planted: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, database = planted
    labels = json.dumps({"database": database})
    whole = recipe_of(tmp_path / "whole", store, labels, "optim.epochs=3")
    run_stages(whole, stage="train", device="cpu")
    broken = recipe_of(tmp_path / "broken", store, labels, "optim.epochs=3")
    import workflows.training.loop as module

    save, saved = module.save_epoch, []

    def save_two(*args: Any, **options: Any) -> None:
        save(*args, **options)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_epoch", save_two)
        with pytest.raises(KeyboardInterrupt):
            run_stages(broken, stage="train", device="cpu")
    run_stages(broken, stage="train", device="cpu", resume=True)
    one, other = (
        load_file(tmp_path / name / "run" / "last.safetensors") for name in ("whole", "broken")
    )
    assert all(np.array_equal(one[key], other[key]) for key in one)


def measured(
    folder: Path, trained: Path, store: Path, database: dict[str, Any], *overrides: str
) -> dict[str, Any]:
    """What the eval stage says of a trained model on other labels."""
    recipe = recipe_of(folder, store, json.dumps({"database": database}), *overrides)
    shutil.copytree(trained, folder / "run")
    run_stages(recipe, stage="eval", device="cpu")
    value: dict[str, Any] = json.loads((folder / "run" / "metrics.json").read_text())
    return value


def test_bad_rows_are_dropped_for_the_bounds_too_which_are_of_the_videos_that_are_scored(
    trained: Path, planted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, database = planted
    changed = json.loads(json.dumps(database))
    tested = next(id for id, entry in changed.items() if entry["subset"] == "test")
    changed[tested]["annotations"].append({"segment": [500.0, 510.0], "label": "cat"})
    rows = [{"segment": [start, start + 1.0], "label": "rain"} for start in (1.0, 3.0, 5.0)]
    changed["ghost.mp4"] = {"subset": "test", "annotations": rows}
    for id in changed.keys() - {tested, "ghost.mp4"}:
        del changed[id]["duration"]  # that of the features is as good
    found = measured(tmp_path / "drop", trained, store, changed, "data.bad_rows=drop")
    usual = json.loads((trained / "metrics.json").read_text())
    notes = found.pop("notes")
    assert found == {key: value for key, value in usual.items() if key != "notes"}
    assert any("1 bad rows" in note for note in notes) and any("ghost" in note for note in notes)
    with pytest.raises(ConfigError, match=f"{tested}.*500"):
        measured(tmp_path / "error", trained, store, changed)


def test_wrong_test_segments_are_named_before_training(
    planted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, database = planted
    changed = json.loads(json.dumps(database))
    tested = next(id for id, entry in changed.items() if entry["subset"] == "test")
    changed[tested]["annotations"][0]["segment"] = None
    recipe = recipe_of(tmp_path, store, json.dumps({"database": changed}))
    with pytest.raises(ConfigError, match=tested):
        run_stages(recipe, device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_whole_video_answer_has_the_models_own_scores_of_the_video(
    trained: Path, planted: tuple[Path, dict[str, Any]]
) -> None:
    model, card = load_network(trained / "best.safetensors")
    assert isinstance(model, CLASP)
    store = FeatureStore.open(planted[0])
    tests = {id: entry for id, entry in planted[1].items() if entry["subset"] == "test"}
    said, durations, truth = {}, {}, {}
    for id, entry in tests.items():
        scores = WeakPredictor(model, card).activate(store.read(id)).video.tolist()
        said[id] = dict(zip(card.classes, scores, strict=True))
        durations[id], truth[id] = entry["duration"], ground_truth_events(entry["annotations"])
    expected = mean_average_precision(truth, whole_video_baseline(durations, said))
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["whole_video_baseline"]["average_mAP"] == pytest.approx(expected.average)
    predictions = read_results(trained / "predictions.json")
    best = score(truth, predictions, durations).baseline.average
    assert best != pytest.approx(expected.average, abs=1e-6), "of the best events: another answer"


def one_sided(store: Path, database: dict[str, Any], folder: Path, *, all_of_them: bool) -> Path:
    """A copy of the training videos of which all, or every third, lost their sound."""
    source, copy = FeatureStore.open(store), FeatureStore.create(folder / "deaf", SPEC)
    for number, (id, entry) in enumerate(database.items()):
        if entry["subset"] == "train":
            rows = {name: np.array(array) for name, array in source.read(id).arrays.items()}
            if all_of_them or number % 3 == 0:
                rows["audio_mask"][:] = False
                rows["audio"][:] = 0
            add_video(copy, id, rows)
    return folder / "deaf"


def test_videos_that_are_never_both_seen_and_heard_teach_nothing_and_are_named(
    planted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, database = planted
    overrides = ("optim.epochs=2", "data.validation=", "data.test=")
    labels = json.dumps({"database": database})
    for name, every in (("all", True), ("some", False)):
        (tmp_path / name).mkdir()
        deaf = one_sided(store, database, tmp_path / name, all_of_them=every)
        recipe = recipe_of(tmp_path / name, deaf, labels, *overrides)
        if every:
            with pytest.raises(
                ConfigError, match=r"none of the 48 videos .* both picture and sound"
            ):
                run_stages(recipe, stage="train", device="cpu")
            assert not (tmp_path / name / "run" / "best.safetensors").exists()
        else:
            report = run_stages(recipe, stage="train", device="cpu").format_table()
            assert "note: 16 of 48 videos have no step with both picture and sound" in report


@pytest.mark.parametrize("lacks", [("audio",), ("vision",), ("audio", "vision")], ids=str)
@pytest.mark.parametrize("missing", [False, True], ids=["silent or black", "no stream"])
def test_a_silent_or_black_video_has_no_event_of_what_is_only_seen_or_heard(
    trained: Path,
    planted: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    lacks: tuple[str, ...],
    missing: bool,
) -> None:
    source, copy = FeatureStore.open(planted[0]), FeatureStore.create(tmp_path / "store", SPEC)
    detector = TrainedDetector(trained / "best.safetensors", device="cpu", min_score=0.1)
    tests = [id for id, entry in planted[1].items() if entry["subset"] == "test"]
    whole = [detector.detections(source.read(id), video=id) for id in tests]
    assert sum(bool(found.events) for found in whole) > len(tests) / 2
    for id in tests:
        rows = {name: np.array(array) for name, array in source.read(id).arrays.items()}
        for name in lacks:
            rows[name][:] = 0  # silence and darkness look like the background of this world
            rows[f"{name}_mask"][:] = not missing
        add_video(copy, id, rows)
        assert detector.detect_features(copy.read(id))[0] == [], "the network itself"
        found = detector.detections(copy.read(id), video=id)
        assert found.events == () and found.curves is not None
        assert np.isfinite(found.curves.values).all()
        assert any("both seen and heard" in n or "must be seen and heard" in n for n in found.notes)


def test_a_sound_that_never_changes_is_no_event_whatever_the_network_says(
    trained: Path, planted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    source, copy = FeatureStore.open(planted[0]), FeatureStore.create(tmp_path / "store", SPEC)
    detector = TrainedDetector(trained / "best.safetensors", device="cpu", min_score=0.1)
    tests = {id: entry for id, entry in planted[1].items() if entry["subset"] == "test"}
    said = 0
    for id, entry in tests.items():
        rows = {name: np.array(array) for name, array in source.read(id).arrays.items()}
        ends = SPEC.grid.to_grid(np.array(entry["annotations"][0]["segment"]))
        rows["audio"][:] = rows["audio"][round(float(ends.mean()))]
        add_video(copy, id, rows)
        said += len(detector.detect_features(copy.read(id))[0])
        found = detector.detections(copy.read(id), video=id)
        assert found.events == () and any("the sound is the same" in n for n in found.notes)
    assert said > 0
