"""The benchmarks of training and evaluation run, at tiny sizes, and count what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.windows import WindowGrid
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault, UsageError
from tests.fixtures.planted import AUDIO_DIM, SPEC, VISION_DIM
from workflows.bench.data import (
    CLASSES,
    DURATION_SHARES,
    DURATIONS_S,
    EVENTS_PER_VIDEO,
    STEP_S,
    VIDEOS,
    WINDOW_S,
    PlantedVideos,
    Sizes,
    lengths_like_unav100,
)
from workflows.bench.epoch import measure_epoch
from workflows.bench.eval import measure_map, measure_softnms
from workflows.bench.loading import LoadingRow, Passage, measure_loading
from workflows.bench.precision import LossCurve, PrecisionReport, measure_precision
from workflows.bench.stopwatch import Stopwatch
from workflows.bench.train import StepPlan, measure_here, measure_step

TINY = StepPlan(
    videos=2,
    steps=32,
    iterations=2,
    vision_dim=VISION_DIM,
    audio_dim=AUDIO_DIM,
    classes=3,
    channels=16,
)


# What is measured on.


def test_the_sizes_are_those_of_the_published_annotations(shared: object) -> None:
    path: Path = shared("data/unav100_annotations.json")  # type: ignore[operator]
    videos = json.loads(path.read_text())["database"].values()
    train = [video for video in videos if video["subset"] == "train"]
    assert len(train) == VIDEOS
    events = sum(len(video["annotations"]) for video in train)
    assert round(events / len(train)) == EVENTS_PER_VIDEO
    assert len({row["label"] for video in train for row in video["annotations"]}) == CLASSES
    durations = [video["duration"] for video in train]
    np.testing.assert_allclose(np.quantile(durations, DURATION_SHARES), DURATIONS_S, atol=0.1)


def test_the_lengths_are_the_steps_that_the_durations_have_on_the_grid() -> None:
    grid = WindowGrid()
    assert (grid.step_seconds, grid.window_seconds) == (STEP_S, WINDOW_S)
    lengths = lengths_like_unav100(VIDEOS)
    assert (min(lengths), max(lengths)) == (grid.steps(10.0), grid.steps(60.0) - 1)
    seconds = np.mean(lengths) * STEP_S + WINDOW_S - STEP_S
    assert seconds == pytest.approx(42.2, abs=0.5)  # the mean of the published durations
    assert lengths == lengths_like_unav100(VIDEOS)
    assert abs(np.mean(lengths[:500]) - np.mean(lengths)) < 5  # mixed


def test_planted_events_stand_out_in_both_streams_and_padding_does_not() -> None:
    maker = PlantedVideos(Sizes(64, 48, 5, events=1), seed=3)
    batch = maker.batch([40, 30], steps=50)
    assert batch.vision.shape == (2, 64, 50)
    assert batch.vision_mask.sum(1).tolist() == [40, 30]
    place = torch.arange(50)
    for row in range(2):
        ((start, end),) = batch.segments[row].tolist()
        inside = (place >= start) & (place <= end)
        outside = ~inside & batch.vision_mask[row]
        for stream in (batch.vision[row], batch.audio[row]):
            assert stream[:, inside].var() > 1.4 * stream[:, outside].var()
            assert not stream[:, ~batch.vision_mask[row]].any()


def test_a_stopwatch_counts_the_work_of_this_process() -> None:
    with Stopwatch() as asleep:
        torch.zeros(1)
    with Stopwatch() as busy:
        total = sum(number * number for number in range(300_000))
    assert total > 0
    assert busy.cpu > asleep.cpu >= 0
    assert busy.wall > 0


def test_the_peak_of_memory_stays_when_the_memory_is_given_back() -> None:
    # In a process of its own: this one's peak may lie above anything that a test would allocate.
    script = """
import numpy as np
from workflows.bench.stopwatch import peak_bytes
before = peak_bytes()
block = np.ones(200_000_000, np.uint8)
del block
print(peak_bytes() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert 1.8e8 < int(done.stdout) < 4e8


# What measures.


def test_a_training_step_is_measured_in_a_process_of_its_own() -> None:
    report = measure_step(TINY)
    assert len(report.cpu) == len(report.wall) == TINY.iterations
    assert min(report.cpu) > 0
    assert 5e7 < report.peak < 8e9
    assert report.assignment > 0
    text = report.format_table()
    assert f"batch 2 x 32, {VISION_DIM} + {AUDIO_DIM} values a step, 3 classes, width 16" in text
    assert "GiB" in text


def test_bfloat16_steps_are_measured_too() -> None:
    told = measure_here(replace(TINY, precision="bf16"))
    assert len(told["cpu"]) == TINY.iterations


def test_steps_of_clasp_are_measured_too() -> None:
    told = measure_here(replace(TINY, method="clasp"))
    assert len(told["cpu"]) == TINY.iterations and min(told["cpu"]) > 0
    assert told["assignment"] == 0, "it has no segments to assign"


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(EnvironmentFault, match=r"failed: .*do not split into"):
        measure_step(replace(TINY, channels=18))


def test_map_is_measured_on_made_up_and_on_given_events(tmp_path: Path) -> None:
    made_up = measure_map(videos=20, per_video=10, repeats=2)
    assert "mAP of 200 predictions on 20 videos" in made_up.title
    assert len(made_up.cpu) == 2
    assert "average mAP" in made_up.result
    row = {"segment": [1.0, 4.0], "label": "dog"}
    database = {
        "a": {"duration": 9.0, "subset": "Test", "annotations": [row]},
        "b": {"duration": 9.0, "subset": "test", "annotations": []},
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"database": database}))
    given = measure_map(path, per_video=5, repeats=1)
    assert "mAP of 10 predictions on 2 videos with 1 events" in given.title


def test_softnms_is_measured_on_one_core_and_the_threads_come_back() -> None:
    before = torch.get_num_threads()
    report = measure_softnms(candidates=500, classes=7, repeats=2)
    assert torch.get_num_threads() == before
    assert "Soft-NMS of 500 candidates in 7 classes, one core" in report.format_table()
    assert "100 kept" in report.result


def test_precision_shows_the_losses_side_by_side() -> None:
    report = measure_precision(["bf16"], iterations=6, channels=16)
    assert [curve.name for curve in report.curves] == ["fp32", "bf16"]
    assert report.deviation(report.curves[0]) == 0.0
    assert 0 < report.deviation(report.curves[1]) < 0.05
    rows = [line.split() for line in report.format_table().splitlines()]
    assert [row[0] for row in rows if len(row) == 3 and row[0].isdigit()] == list("012345")


def test_the_deviation_is_the_largest_one_and_means_smooth_it() -> None:
    exact = LossCurve("fp32", (1.0, 1.0, 2.0), 0.1)
    other = LossCurve("bf16", (1.1, 0.9, 2.0), 0.1)
    report = PrecisionReport("", "", (exact, other))
    assert report.deviation(other) == pytest.approx(0.1)
    assert report.deviation(other, window=2) == pytest.approx(0.1 / 3)


def test_loading_compares_store_and_memory(tmp_path: Path) -> None:
    plan = replace(TINY, steps=256)
    report = measure_loading(
        videos=5, iterations=2, widths=[16], plan=plan, spec=SPEC, folder=tmp_path
    )
    (row,) = report.rows
    for way in (row.memory, row.plain, row.ahead):
        assert way.step > way.waiting >= 0
    assert row.ratio >= 1
    assert "from memory" in report.format_table()
    assert not list(tmp_path.iterdir())  # the store was there for the while only


def test_the_loading_ratio_is_what_waiting_adds() -> None:
    memory, plain = Passage(0.0, 1.0, 0.0, 1.0), Passage(0.5, 1.5, 0.5, 1.0)
    assert LoadingRow(8, memory, plain, Passage(0.5, 1.1, 0.1, 1.0)).ratio == pytest.approx(1.1)


def test_an_epoch_is_projected_from_its_iterations() -> None:
    report = measure_epoch(device="cpu", iterations=1, videos=11, ways=["fp32", "bf16"], plan=TINY)
    for row in report.rows:
        assert row.epoch == pytest.approx(5 * row.iteration)  # 11 videos are 5 batches of 2
        assert np.isfinite(row.loss)
        assert row.peak > 0
    text = report.format_table()
    assert "5 iterations an epoch" in text
    assert "on the CPU" in text


def test_an_epoch_of_less_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="1 videos in batches of 2"):
        measure_epoch(device="cpu", videos=1, plan=TINY)


@pytest.mark.parametrize(
    "words",
    [
        ["softnms", "--candidates", "300"],
        ["precision", "--iterations", "2", "--channels", "16", "--no-compile", "--device", "cpu"],
    ],
)
def test_the_commands_print_their_tables(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 0
    assert "load" in capsys.readouterr().out
