"""The demo from films to table, on a few films; and how decisions are joined."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.loco import LoCo
from pipeline.config import load_recipe
from pipeline.core.events import Event
from workflows.demo.late import join_decisions
from workflows.demo.run import AUDIO, LATE_TITLE, LOCO, VISION, DemoReport, count_hits, run_demo


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    """The demo on a few films, with LoCo and the two single-modality models."""
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(folder, quick=True, device="cpu", variants=(LOCO, VISION, AUDIO))


def test_the_demo_measures_every_model_and_the_two_baselines(quick: DemoReport) -> None:
    titles = [row.title for row in quick.rows]
    assert titles[:3] == [LOCO.title, VISION.title, AUDIO.title]
    assert LATE_TITLE in titles
    assert len(titles) == 5
    for row in quick.rows:
        assert 0 <= row.at_half <= 1
        assert 0 <= row.average <= 1
    assert quick.long_film.true > 0


def test_the_numbers_of_the_table_are_those_of_the_runs(quick: DemoReport) -> None:
    scores = json.loads((quick.folder / "runs" / "loco" / "metrics.json").read_text())["scores"]
    assert quick.rows[0].average == scores["average_mAP"]
    assert f"{100 * scores['average_mAP']:.1f}" in quick.format_table().splitlines()[1]
    written = json.loads((quick.folder / "demo.json").read_text())
    assert [row["average_mAP"] for row in written["rows"]] == [r.average for r in quick.rows]


def test_the_commands_it_suggests_name_files_that_are_there(quick: DemoReport) -> None:
    commands = [line for line in quick.format_table().splitlines() if "pipeline " in line]
    assert len(commands) == 2
    for line in commands:
        for word in line.split():
            if "/" in word:
                assert Path(word).exists(), word
    assert list((quick.folder / "runs" / "loco" / "detections").glob("long.*"))


def test_a_second_call_keeps_what_is_finished(quick: DemoReport) -> None:
    checkpoint = quick.checkpoint.stat().st_mtime_ns
    again = run_demo(quick.folder, quick=True, device="cpu", variants=(LOCO, VISION, AUDIO))
    assert again.checkpoint.stat().st_mtime_ns == checkpoint
    assert again.rows == quick.rows


def test_the_recipe_lies_beside_the_films_and_can_be_run_alone(quick: DemoReport) -> None:
    recipe = load_recipe(quick.folder / "demo.yaml")
    assert recipe.data.annotations == quick.data.annotations
    assert recipe.data.videos == (quick.data.videos,)
    assert recipe.output.folder == quick.checkpoint.parent


def test_joined_decisions_are_sure_only_where_both_are() -> None:
    torch.manual_seed(0)
    model = LoCo(vision_dim=4, audio_dim=4, classes=1, channels=8, heads=2, levels=2).eval()
    mask = torch.ones(1, 8, dtype=torch.bool)
    with torch.inference_mode():
        said = model(torch.randn(1, 4, 8), torch.randn(1, 4, 8), mask, mask)
    high, low = torch.full_like(said.logits, 4.0), torch.full_like(said.logits, -4.0)
    near, far = torch.ones_like(said.distances), 3 * torch.ones_like(said.distances)
    both = [replace(said, logits=high, distances=near), replace(said, logits=high, distances=far)]
    one = [replace(said, logits=high, distances=near), replace(said, logits=low, distances=far)]
    torch.testing.assert_close(join_decisions(both).logits, high)
    expected = (torch.tensor(4.0).sigmoid() * torch.tensor(-4.0).sigmoid()).sqrt()
    torch.testing.assert_close(
        join_decisions(one).logits.sigmoid(), expected.expand_as(high), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(join_decisions(both).distances, 2 * near)


def test_a_true_event_is_found_once_and_by_its_own_class_only() -> None:
    truth = [Event(0, 2, "ball", 1), Event(1, 3, "fan", 1), Event(5, 6, "ball", 1)]
    found = [
        Event(0.1, 2.0, "ball", 0.9),
        Event(0.0, 2.1, "ball", 0.5),
        Event(1.0, 3.0, "bell", 0.9),
        Event(5.0, 9.0, "ball", 0.9),
    ]
    assert count_hits(truth, found) == 1
    assert count_hits(truth, [*found, Event(1.2, 3.1, "fan", 0.2)]) == 2
