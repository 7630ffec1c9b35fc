"""Recipes: everything that is wrong is said at once, with its line and what was meant."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from model import (
    activation,
    anchors,
    attention,
    clasp,
    correspondence,
    embedding,
    heads,
    losses,
    mixing,
    perception,
    pooling,
    propagation,
    pyramid,
)
from model.build import METHODS
from model.clasp import CLASP
from model.decoding import DecodingSettings
from model.loco import LoCo
from pipeline import recipe, recipe_weak
from pipeline.config import dump_recipe, load_recipe
from pipeline.core.errors import ConfigError
from pipeline.recipe import InferConfig, LossConfig, ModelConfig
from pipeline.recipe_weak import ClaspConfig, LocaliseConfig
from workflows.weak.predict import LocalisationSettings

RECIPES = sorted((Path(__file__).parents[2] / "workflows" / "recipes").glob("*.yaml"))
GOOD = "data:\n  annotations: labels.json\n  features: store\noutput:\n  folder: run\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(folder, text), overrides=overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_is_left_out_has_its_default_and_paths_start_at_the_recipe(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, GOOD))
    assert loaded.data.annotations == tmp_path / "labels.json"
    assert loaded.output.folder == tmp_path / "run"
    assert (loaded.model.fusion, loaded.optim.lr) == ("dynamic", 1e-4)


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    text = (
        GOOD
        + "model:\n  chanels: 64\n  levels: 99\n  fusion: dynamik\noptim:\n  lr: fast\nmodle: {}\n"
    )
    said = problems(tmp_path, text)
    assert "has 5 problems" in said
    assert "line 7: model.chanels: unknown key; did you mean 'channels'?" in said
    assert "line 8: model.levels: 99 must be in [1, 12]" in said
    assert "line 9: model.fusion: 'dynamik' is not one of" in said
    assert "did you mean 'dynamic'?" in said
    assert "line 11: optim.lr: 'fast' is not a number" in said
    assert "line 12: modle: unknown key; did you mean 'model'?" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no sections"),
        ("- a\n", "holds no sections"),
        ("data: [\n", "is no valid YAML"),
        ("data: !!python/object/apply:os.getcwd []\n", "is no valid YAML"),
        ("output:\n  folder: run\n", "data.annotations: is required"),
        (GOOD + "model: 5\n", "model: holds 5, not keys with values"),
        (GOOD + "train:\n  batch_size: true\n", "True is not a whole number"),
        (GOOD + "train:\n  batch_size: 2.5\n", "2.5 is not a whole number"),
        (GOOD + "optim:\n  lr: .nan\n", "not a finite number"),
        (GOOD + "optim:\n  lr: 1\n  lr: 2\n", "is given twice, first on line 7"),
        (GOOD + "eval:\n  tiou: [0.5, 0.3]\n", "must be rising thresholds"),
        (GOOD + "model:\n  channels: 30\n", "model.channels=30 is not a multiple of model.heads=4"),
        (GOOD + "optim:\n  epochs: 5\n", "leaves nothing of optim.epochs=5"),
        (GOOD + "loss:\n  sigma: 40\n", "loss.sigma=40 is not from 0.3 to 32, which"),
        (GOOD + "loss:\n  sigma: 0.2\n", "loss.sigma=0.2 is not from 0.3 to 32, which"),
        (GOOD + "loss:\n  sigma_unit: video\n", "loss.sigma=1 is not from 0.001172 to 0.125"),
        (
            GOOD.replace("output", "  modalities: vision\nmodel:\n  method: clasp\noutput"),
            "data.modalities=vision leaves model.method=clasp nothing to learn from",
        ),
        (
            GOOD.replace("output", "  modalities: audio\n  validation: ''\noutput")
            + "semi_weak:\n  teacher: a.yaml\n  strong: annotated\n",
            "data.modalities=audio leaves the weak model of semi_weak.teacher nothing",
        ),
        (
            GOOD.replace("output", "  validation: ''\noutput")
            + "semi_weak:\n  strong: annotated\n",
            "semi_weak.strong=annotated needs semi_weak.teacher",
        ),
    ],
)
def test_a_mistake_gets_one_clear_sentence(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, text)


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.sigma=0.2", "loss.least_sigma=0.1"],
        ["loss.sigma=40", "loss.correspondence=diagonal"],  # where nothing reads it
        ["loss.sigma=0.01", "loss.sigma_unit=video"],
    ],
)
def test_a_deviation_within_its_limits_is_taken(tmp_path: Path, overrides: list[str]) -> None:
    assert load_recipe(write(tmp_path, GOOD), overrides=overrides).overrides == tuple(overrides)


def test_a_recipe_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_numbers_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, GOOD + "optim:\n  lr: 1e-3\n  clip: 2\n"))
    assert loaded.optim.lr == 1e-3  # YAML 1.1 itself reads text there
    assert loaded.optim.clip == 2.0


def test_overrides_win_and_their_paths_start_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    loaded = load_recipe(
        write(tmp_path, GOOD),
        overrides=["optim.lr=3e-4", "data.features=mine", "eval.tiou=[0.5, 0.7]"],
    )
    assert loaded.optim.lr == 3e-4
    assert loaded.data.features == elsewhere / "mine"
    assert loaded.data.annotations == tmp_path / "labels.json"
    assert loaded.eval.tiou == (0.5, 0.7)


def test_nothing_behind_the_equals_sign_is_an_empty_text(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD), overrides=["data.validation="]).data.validation == ""
    assert "--set optim.lr: '' is not a number" in problems(tmp_path, GOOD, "optim.lr=")


def test_an_override_of_a_section_changes_the_keys_that_it_names(tmp_path: Path) -> None:
    written = write(tmp_path, GOOD)
    merged = load_recipe(written, overrides=["model={window: 16, fusion: none}"])
    single = load_recipe(written, overrides=["model.window=16", "model.fusion=none"])
    assert merged == single != load_recipe(written)
    assert "--set model.widow: unknown key" in problems(tmp_path, GOOD, "model={widow: 16}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lr", "is not of the form section.key=value"),
        ("optim.rate=1", "--set optim.rate: unknown key"),
        ("optim.lr=-1", "--set optim.lr: -1 must be above 0"),
        ("model=5", "--set model: holds 5"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(
    tmp_path: Path, override: str, said: str
) -> None:
    assert said in problems(tmp_path, GOOD, override)


def test_a_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    loaded = load_recipe(
        write(tmp_path, GOOD), overrides=["model.window=16", "detect.inputs=a.mp4"]
    )
    again = tmp_path / "again"
    again.mkdir()
    assert load_recipe(write(again, dump_recipe(loaded))) == loaded


FROM_DATA = {"vision_dim", "audio_dim", "classes"}  # arguments that features and labels decide


def offered(*sections: type) -> dict[str, object]:
    """Defaults of all that sections of a recipe offer; the method is no argument of a network."""
    found = {item.name: item.default for section in sections for item in fields(section)}
    return {name: value for name, value in found.items() if name != "method"}


def arguments(network: type) -> dict[str, object]:
    parameters = inspect.signature(network).parameters.items()
    return {name: value.default for name, value in parameters if name not in FROM_DATA}


def test_every_choice_of_the_network_can_be_made_in_a_recipe() -> None:
    assert offered(ModelConfig, LossConfig).keys() == arguments(LoCo).keys()
    own = offered(ClaspConfig).keys()
    assert own < arguments(CLASP).keys() <= own | offered(ModelConfig).keys()
    assert offered(InferConfig).keys() == {item.name for item in fields(DecodingSettings)}
    kept = {item.name for item in fields(activation.Recipe)} - {"min_score"}  # that of ``infer``
    assert offered(LocaliseConfig).keys() == kept
    assert set(recipe.CORRESPONDENCES) == {*correspondence.VARIANTS, "none"}
    assert set(recipe.METHODS) == set(METHODS)
    for ours, theirs in (
        (recipe.FUSIONS, pyramid.FUSIONS),
        (recipe.RESIDUALS, attention.RESIDUALS),
        (recipe.TARGETS, correspondence.TARGETS),
        (recipe.DIRECTIONS, correspondence.DIRECTIONS),
        (recipe.SCOPES, correspondence.SCOPES),
        (recipe.UNITS, correspondence.UNITS),
        (recipe.INTERVALS, losses.INTERVALS),
        (recipe.POSITIONS, embedding.POSITIONS),
        (recipe.BANDS, mixing.BANDS),
        (recipe.ADAPTATIONS, perception.ADAPTATIONS),
        (recipe.DECODER_ATTENTIONS, heads.ATTENTIONS),
        (recipe_weak.SELECTIONS, clasp.SELECTIONS),
        (recipe_weak.ANCHORS, clasp.SCOPES),
        (recipe_weak.FILTERS, activation.FILTERS),
        (recipe_weak.ANCHOR_BIASES, anchors.BIASES),
        (recipe_weak.ANCHOR_FUSIONS, anchors.FUSIONS),
        (recipe_weak.PROPAGATIONS, propagation.OPERATORS),
        (recipe_weak.GATES, propagation.GATES),
        (recipe_weak.STREAM_FUSIONS, clasp.STREAM_FUSIONS),
        (recipe_weak.POOLINGS, pooling.POOLINGS),
    ):
        assert set(ours) == set(theirs)


def test_defaults_of_recipe_and_network_are_the_same() -> None:
    assert offered(ModelConfig, LossConfig) == arguments(LoCo)
    ours = offered(ModelConfig, ClaspConfig)
    assert arguments(CLASP) == {name: ours[name] for name in arguments(CLASP)}
    settings = LocalisationSettings().recipe
    defaults = offered(LocaliseConfig)
    assert defaults == {name: getattr(settings, name) for name in defaults}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_committed_recipe_is_right_and_starts_with_its_own_command(path: Path) -> None:
    load_recipe(path)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# pipeline run --stage all --config ")
    assert first.endswith(path.name)


@pytest.mark.parametrize(
    ("name", "method", "annotations"),
    [
        ("custom", "loco", "labels.json"),
        ("custom_clasp", "clasp", "labels.csv"),
        ("custom_semi_weak", "loco", "labels.json"),
    ],
)
def test_there_is_a_recipe_for_ones_own_labels(name: str, method: str, annotations: str) -> None:
    (path,) = (path for path in RECIPES if path.stem == name)
    found = load_recipe(path)
    assert found.model.method == method and found.data.annotations.name == annotations
    assert found.data.videos and found.backbone.name == "lite"
