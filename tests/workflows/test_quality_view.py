"""The report of runs: what is measured on trained models, and what is said of parts that lack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
import yaml

import extractors.registry
from extractors.storage.store import FeatureStore
from model.checkpoint import Card, load_checkpoint, save_checkpoint
from model.loco import LoCo
from pipeline.config import load_recipe
from pipeline.core.errors import ConfigError, UsageError
from pipeline.report.run_page import render_run_page
from tests.fixtures.planted import PLANTED, plant
from workflows.quality.measure import deviation_and_means
from workflows.quality.report import report_runs
from workflows.stages import run_stages
from workflows.training.dataset import feature_tensors

SMALL = {
    "backbone": {"name": "planted"},
    "model": {
        "channels": 16,
        "decoder_channels": 16,
        "unimodal_blocks": 1,
        "levels": 3,
        "max_seq_len": 72,
    },
    "loss": {"normaliser": 20},
    "optim": {"lr": 4e-3, "epochs": 2, "warmup_epochs": 1, "ema": 0.5},
    "train": {"batch_size": 4, "seed": 3},
}
VARIANTS = {
    "loco": (),
    "plain": ("loss.correspondence=none",),
    "global": ("loss.correspondence=none", "model.fusion=global"),
}


@pytest.fixture(autouse=True, scope="module")
def planted_backbone() -> Iterator[None]:
    rows = {**extractors.registry.BACKBONES, "planted": PLANTED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.registry, "BACKBONES", MappingProxyType(rows))
        yield


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("planted"), train=8, validation=2, test=6)


def make_run(folder: Path, planted: tuple[Path, Path], *overrides: str) -> Path:
    path = folder.parent / f"{folder.name}.yaml"
    data = {"features": str(planted[0]), "annotations": str(planted[1])}
    path.write_text(yaml.safe_dump({"data": data, "output": {"folder": folder.name}, **SMALL}))
    run_stages(load_recipe(path, overrides=overrides), device="cpu")
    return folder


@pytest.fixture(scope="module")
def trained(
    planted: tuple[Path, Path], planted_backbone: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        name: make_run(root / name, planted, *overrides) for name, overrides in VARIANTS.items()
    }


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / run.name))


def test_the_mean_of_std_is_that_of_cosines_of_the_unimodal_outputs(
    trained: dict[str, Path], planted: tuple[Path, Path]
) -> None:
    view = report_runs([trained["loco"]], device="cpu")
    model, _ = load_checkpoint(trained["loco"] / "best.safetensors")
    store = FeatureStore.open(planted[0])
    expected = []
    for id in sorted(id for id in store.ids() if id.startswith("test/")):
        vision, audio, seen, heard = (x[None] for x in feature_tensors(store.read(id)))
        length = torch.tensor([seen.shape[1]])
        with torch.no_grad():
            streams = [
                model.unimodal[name](model.embed[name](x, mask[:, None], length), mask[:, None])
                for name, x, mask in (("vision", vision, seen), ("audio", audio, heard))
            ]
        v, a = (stream[0].T.double().numpy() for stream in streams)
        norms = np.linalg.norm(v, axis=1)[:, None] * np.linalg.norm(a, axis=1)
        expected.append((v @ a.T / norms).std())
    similarity = view.runs[0].similarity
    assert similarity is not None
    np.testing.assert_allclose(similarity.deviations, expected, atol=1e-5)
    assert similarity.mean_deviation == pytest.approx(np.mean(expected), abs=1e-5)
    assert view.measured == 6


def test_deviation_and_means_leave_out_cells_that_do_not_exist() -> None:
    matrix = np.array([[1, 0, np.nan], [0, 0.5, np.nan], [np.nan] * 3], np.float32)
    deviation, mean, synchronous = deviation_and_means(matrix)
    assert mean == pytest.approx(1.5 / 4)
    assert deviation == pytest.approx(np.std([1, 0, 0, 0.5]))
    assert synchronous == pytest.approx(0.75)


def test_runs_stand_side_by_side_with_what_differs(trained: dict[str, Path]) -> None:
    view = report_runs(list(trained.values()), device="cpu", videos=2)
    assert [run.name for run in view.runs] == ["loco", "plain", "global"]
    assert dict(view.differences) == {
        "model.fusion": ("dynamic", "dynamic", "global"),
        "loss.correspondence": ("learnable", "none", "none"),
    }
    assert [len(run.log) for run in view.runs] == [2, 2, 2]
    assert all(run.scores is not None and run.missing == () for run in view.runs)
    assert [bool(run.windows) for run in view.runs] == [True, True, False]
    assert [run.last("sigma") is not None for run in view.runs] == [True, False, False]
    assert len(view.videos) == 2
    assert all(matrix is not None for video in view.videos for matrix in video.matrices)
    assert "mean of std" in view.format_table()


def test_a_report_does_not_round_to_tf32(
    trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []

    def watched(path: Path) -> tuple[LoCo, Card]:
        model, card = load_checkpoint(path)
        model.register_forward_pre_hook(
            lambda *_: seen.append(bool(torch.backends.cudnn.allow_tf32))
        )
        return model, card

    monkeypatch.setattr("workflows.quality.measure.load_checkpoint", watched)
    report_runs([trained["loco"]], device="cpu", limit=1, videos=1)
    assert seen and not any(seen)
    assert torch.backends.cudnn.allow_tf32


def test_timelines_hold_the_predictions_above_the_runs_threshold(
    trained: dict[str, Path], planted: tuple[Path, Path]
) -> None:
    run = trained["loco"]
    view = report_runs([run], device="cpu", chosen=["test/03"])
    (video,), threshold = view.videos, view.runs[0].threshold
    assert threshold is not None
    rows = json.loads((run / "predictions.json").read_text())["results"]["test/03"]
    expected = [row for row in rows if row["score"] >= threshold]
    assert video.found[0] is not None
    assert [(e.label, e.score) for e in video.found[0]] == [
        (row["label"], pytest.approx(row["score"], abs=1e-5)) for row in expected
    ]
    database = json.loads(planted[1].read_text())["database"]["test/03"]
    assert [(e.start, e.end) for e in video.truth] == [
        tuple(row["segment"]) for row in database["annotations"]
    ]


def test_windows_are_those_of_the_checkpoint(trained: dict[str, Path], tmp_path: Path) -> None:
    run = copy_of(trained["loco"], tmp_path)
    model, card = load_checkpoint(run / "best.safetensors")
    with torch.no_grad():
        for block in (*model.pyramid.vision, *model.pyramid.audio):
            block.mixer.adapt.regress.weight.zero_()
            block.mixer.adapt.regress.bias.zero_()
        # Heads of the sound's questions on level 2: twice as long, then 8 steps later.
        model.pyramid.audio[1].mixer.adapt.regress.bias[0] = 1.0
        model.pyramid.audio[1].mixer.adapt.regress.bias[5] = 2.0
    save_checkpoint(run / "best.safetensors", model.state_dict(), card)
    windows = report_runs([run], device="cpu").runs[0].windows
    assert len(windows) == 2 * 3 * 4
    for entry in windows:
        moved = (entry.asks, entry.level, entry.head)
        assert set(entry.size) == {16.0 if moved == ("audio", 2, 1) else 8.0}
        assert set(entry.offset) == {8.0 if moved == ("audio", 2, 2) else 0.0}
        assert entry.step_seconds == 0.25 * 2 ** (entry.level - 1)
        assert entry.count > 0


def test_the_videos_shown_are_spread_over_the_split(trained: dict[str, Path]) -> None:
    three = report_runs([trained["loco"]], device="cpu", videos=3, limit=1)
    assert [video.id for video in three.videos] == ["test/01", "test/03", "test/05"]
    assert three.measured == 1
    assert report_runs([trained["loco"]], device="cpu", videos=0).videos == ()


def test_an_id_that_is_not_in_the_split_is_named(trained: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"no test video 'dog'.*ids look like 'test/00'"):
        report_runs([trained["loco"]], device="cpu", chosen=["dog"])


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("log.csv", "training curves: there is no log.csv"),
        ("metrics.json", "pipeline run --stage eval"),
        ("best.safetensors", "pipeline run --stage train"),
    ],
)
def test_a_part_that_is_missing_is_named_and_the_rest_is_shown(
    trained: dict[str, Path], tmp_path: Path, file: str, said: str
) -> None:
    run = copy_of(trained["plain"], tmp_path)
    (run / file).unlink()
    view = report_runs([trained["loco"], run], device="cpu", videos=1)
    assert view.runs[0].missing == ()
    assert any(said in part for part in view.runs[1].missing)
    assert said in render_run_page(view).replace("&#x27;", "'")
    assert view.videos and view.videos[0].found[0] is not None
    assert (view.videos[0].found[1] is None) == (file == "best.safetensors")


def test_without_the_features_the_log_and_the_scores_remain(
    trained: dict[str, Path], planted: tuple[Path, Path], tmp_path: Path
) -> None:
    run = copy_of(trained["loco"], tmp_path)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["features"] = str(tmp_path / "gone")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    view = report_runs([run], device="cpu")
    (shown,) = view.runs
    assert view.videos == () and shown.similarity is None and shown.windows == ()
    assert shown.log and shown.scores is not None
    assert any("gone" in part for part in shown.missing)
    assert "there is nothing to show" in render_run_page(view)


def test_a_model_of_one_modality_has_no_similarity_and_says_so(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(trained["global"], tmp_path)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["modalities"] = "audio"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (shown,) = report_runs([run], device="cpu").runs
    assert shown.similarity is None
    assert any("no test video has both picture and sound" in part for part in shown.missing)


def test_runs_of_other_events_are_refused(
    trained: dict[str, Path], planted: tuple[Path, Path], tmp_path: Path
) -> None:
    run = copy_of(trained["plain"], tmp_path)
    value = json.loads(planted[1].read_text())
    value["database"]["test/02"]["annotations"][0]["segment"][1] += 0.25
    (tmp_path / "labels.json").write_text(json.dumps(value))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["annotations"] = str(tmp_path / "labels.json")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match=r"cannot be compared.*true events.*test/02"):
        report_runs([trained["loco"], run], device="cpu")


def test_runs_of_other_classes_or_another_backbone_are_refused(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(trained["plain"], tmp_path)
    model, card = load_checkpoint(run / "best.safetensors")
    other = replace(card, classes=("bell", "cat", "drum"))
    save_checkpoint(run / "best.safetensors", model.state_dict(), other)
    with pytest.raises(UsageError, match=r"other classes, such as dog"):
        report_runs([trained["loco"], run], device="cpu")
    save_checkpoint(run / "best.safetensors", model.state_dict(), replace(card, digest="0" * 16))
    with pytest.raises(UsageError, match="other backbones"):
        report_runs([trained["loco"], run], device="cpu")


def test_folders_of_one_name_are_told_apart_and_one_folder_is_not_two(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    twin = copy_of(trained["loco"], tmp_path)
    view = report_runs([trained["loco"], twin], device="cpu", videos=1)
    assert [run.name.split("/")[-1] for run in view.runs] == ["loco", "loco"]
    assert view.runs[0].name != view.runs[1].name
    with pytest.raises(UsageError, match="named twice"):
        report_runs([twin, tmp_path / "loco"], device="cpu")


def test_a_folder_that_is_no_run_and_damaged_scores_are_named(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no folder of a run: it has no recipe\.yaml"):
        report_runs([tmp_path], device="cpu")
    run = copy_of(trained["plain"], tmp_path)
    (run / "metrics.json").write_text('{"scores": {"tiou": [0.5]}}')
    with pytest.raises(ConfigError, match=r"metrics\.json does not hold scores"):
        report_runs([run], device="cpu")


def test_of_a_long_video_the_first_piece_is_measured_and_the_page_says_so(
    trained: dict[str, Path], planted: tuple[Path, Path], tmp_path: Path
) -> None:
    run = copy_of(trained["plain"], tmp_path)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["infer"] |= {"chunk": 64, "overlap": 8}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    store = FeatureStore.open(planted[0])
    ids = [id for id in store.ids() if id.startswith("test/")]
    long = [id.removesuffix(".mp4") for id in ids if store.summary(id).steps > 64]
    assert long
    view = report_runs([trained["loco"], run], device="cpu", chosen=long[:1])
    assert f"of {len(long)} test videos only the first 64 steps were measured" in view.notes
    (video,) = view.videos
    assert [m.shape for m in video.matrices if m is not None] == [(64, 64)] * 2
    assert video.matrix_span == (0.375, 0.375 + 64 * 0.25)
