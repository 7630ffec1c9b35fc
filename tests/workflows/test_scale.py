"""What many hours cost, from saved figures; the arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import UsageError
from workflows.bench.plan import measure_plan
from workflows.bench.record import BenchRecord, Figure
from workflows.bench.scale import work_out
from workflows.bench.speed_report import DECODE, MODEL, WHOLE

SPEED = BenchRecord(
    "speed",
    {"backbone": "lite", "file": None},
    (
        Figure(f"{WHOLE}, wall", 0.25, "s/s"),
        Figure(f"{WHOLE}, CPU", 0.5, "s/s"),
        Figure(f"{MODEL}, wall", 0.2, "s/s"),
        Figure(f"{DECODE}, CPU", 0.05, "s/s"),
        Figure("store per second of video", 40_000, "B/s"),
        Figure("source per second of video", 100_000, "B/s", "neither"),
    ),
    machine={"processor": "abacus"},
    versions={},
    commit="abc",
    time=0.0,
)
PLAN = replace(
    SPEED,
    kind="plan",
    task={"videos": 10},
    figures=(
        Figure("rerun, CPU", 36, "us"),
        Figure("ledger", 400, "B"),
        Figure("rerun, memory", 1000, "B"),
    ),
)


def test_a_measured_machine_costs_what_it_was_measured_to_cost() -> None:
    report = work_out(SPEED, PLAN, clip_seconds=36)
    assert report.rate == pytest.approx(4 / 0.2)  # the lite grid has four steps a second
    assert report.speed == pytest.approx(4) and report.cores == pytest.approx(0.2)
    thousand = report.rows[1]
    assert thousand.hours == 1000 and thousand.videos == 100_000
    assert thousand.worker_hours == 250 and thousand.core_hours == 500
    assert thousand.decode_hours == pytest.approx(50)
    assert thousand.bytes == pytest.approx(3.6e6 * 40_000)
    assert thousand.shards == pytest.approx(max(thousand.bytes / 2**28, 100_000 / 256))
    assert thousand.ledger_bytes == pytest.approx(40e6)
    assert thousand.plan_hours == pytest.approx(100_000 * 36e-6 / 3600)
    assert thousand.plan_bytes == pytest.approx(100e6)


def test_a_faster_device_needs_more_cores_and_says_that_it_was_given() -> None:
    report = work_out(SPEED, PLAN, steps_per_second=400, clip_seconds=36)
    assert report.speed == pytest.approx(100)
    assert report.cores == pytest.approx(100 * 0.05)
    assert report.read == pytest.approx(100 * 100_000) and report.written == pytest.approx(4e6)
    assert report.rows[0].worker_hours == pytest.approx(0.01)
    assert report.rows[0].core_hours is None  # what was measured was on another device
    assert "GIVEN, not measured" in report.format_table()
    assert "GIVEN" not in work_out(SPEED, PLAN).format_table()


def test_short_files_give_more_shards_than_their_bytes_ask_for() -> None:
    few, many = (work_out(SPEED, PLAN, clip_seconds=s).rows[2].shards for s in (600, 2))
    assert many > few and many == pytest.approx(3.6e9 / 2 / 256)


@pytest.mark.parametrize("options", [{"steps_per_second": 0.0}, {"clip_seconds": -1.0}])
def test_values_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="is no positive number"):
        work_out(SPEED, PLAN, **options)


def test_records_without_the_cost_of_a_rerun_are_refused() -> None:
    old = replace(PLAN, figures=(Figure("ledger, memory", 1000, "B"),))
    with pytest.raises(UsageError, match="saved by an older version"):
        work_out(SPEED, old)


def test_other_records_are_refused() -> None:
    with pytest.raises(UsageError, match="bench plan was given as one of bench speed"):
        work_out(PLAN, SPEED)


def test_planning_is_measured_on_a_store_that_is_found_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = measure_plan(300)
    assert report.files == 2 + 8 + 2 + 1  # shards; ledger; description and index; locks
    figures = {figure.name: figure.value for figure in report.figures()}
    assert 300 < figures["ledger"] < 500
    assert figures["rerun, CPU"] > 0 and figures["look-up, CPU"] > 0
    assert "rerun, memory" in report.format_table()
    SPEED.save(tmp_path / "s.json")
    BenchRecord("plan", {}, tuple(report.figures())).save(tmp_path / "p.json")
    words = ["bench", "scale", str(tmp_path / "s.json"), str(tmp_path / "p.json")]
    assert main([*words, "--windows-per-second", "100", "--json", str(tmp_path / "o.json")]) == 0
    assert "100 steps/s" in capsys.readouterr().out and (tmp_path / "o.json").exists()
