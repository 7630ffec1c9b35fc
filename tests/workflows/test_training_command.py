"""The command in a checkpoint's card trains the same recipe again."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands import run
from pipeline.config import load_recipe
from workflows.training.build import training_command

RECIPE = "data: {annotations: labels.json, features: store}\noutput: {folder: run}\n"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.fusion=fixed", "optim.lr=5e-5"],
        [
            "output.licence='all rights, \"mine\"'",
            "data.videos=[a b.mp4, $HOME]",
            "train.crop=[1, 1]",
        ],
        ["loss={correspondence: none, interval: diou}", "loss.interval=giou"],
    ],
)
def test_the_command_names_all_that_was_changed(tmp_path: Path, overrides: list[str]) -> None:
    path = tmp_path / "a recipe.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, overrides=overrides)
    program, command, *words = shlex.split(training_command(recipe))
    assert (program, command) == ("pipeline", "run")
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    typed = parser.parse_args(words)
    assert typed.stage == "train"
    assert load_recipe(typed.config, overrides=typed.overrides) == recipe


def test_a_recipe_that_came_from_no_file_has_no_command(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    assert training_command(replace(load_recipe(path), source=None)) == ""
