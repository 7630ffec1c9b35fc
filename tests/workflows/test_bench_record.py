"""Figures of a benchmark as a file, and two files against each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import ConfigError, UsageError
from workflows.bench.compare import compare
from workflows.bench.machine import commit, machine_facts, versions
from workflows.bench.record import BenchRecord, Figure, read_record

MACHINE = {"processor": "abacus", "cores": 2, "gpus": []}


def record(**figures: tuple[float, str]) -> BenchRecord:
    """A run whose figures are values with a direction."""
    return BenchRecord(
        "speed",
        {"file": "a.mp4", "backbone": "lite"},
        tuple(Figure(name, value, "s", better) for name, (value, better) in figures.items()),  # type: ignore[arg-type]
        machine=MACHINE,
        versions={"python": "3.11"},
        commit="abc",
        time=1.0,
    )


def verdicts(first: BenchRecord, second: BenchRecord, **options: float) -> dict[str, str]:
    return {row.name: row.verdict for row in compare(first, second, **options).rows}


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    original = record(wall=(1.5, "lower"), rate=(3.0, "higher"))
    original.save(tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == original


def test_a_record_says_what_it_was_measured_on() -> None:
    facts = machine_facts()
    assert facts["cores"] >= 1 and facts["processor"] and facts["memory_bytes"] > 2**28
    assert {"python", "torch", "numpy", "ffmpeg"} <= versions().keys()
    assert commit().removesuffix("-changed").isalnum() or commit() == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_is_a_number(value: float) -> None:
    with pytest.raises(ValueError, match="the figure 'wall'"):
        Figure("wall", value, "s")


def test_figures_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two figures of one name"):
        replace(record(), figures=(Figure("a", 1, "s"), Figure("a", 2, "s")))


def test_worse_means_slower_for_times_and_less_for_rates() -> None:
    first = record(wall=(1.0, "lower"), rate=(10.0, "higher"), loss=(1.0, "neither"))
    second = record(wall=(1.2, "lower"), rate=(8.0, "higher"), loss=(9.0, "neither"))
    assert verdicts(first, second) == {"wall": "worse", "rate": "worse", "loss": ""}
    assert verdicts(second, first) == {"wall": "better", "rate": "better", "loss": ""}
    assert compare(first, second).exit_code == 1
    assert compare(second, first).exit_code == 0


@pytest.mark.parametrize(
    ("after", "tolerance", "verdict"),
    [(1.1, 0.1, ""), (1.11, 0.1, "worse"), (1.11, 0.2, ""), (1.0, 0.0, ""), (1.001, 0.0, "worse")],
)
def test_the_tolerance_is_a_share(after: float, tolerance: float, verdict: str) -> None:
    found = verdicts(
        record(wall=(1.0, "lower")), record(wall=(after, "lower")), tolerance=tolerance
    )
    assert found == {"wall": verdict}


def test_from_zero_any_rise_is_worse() -> None:
    """A ratio would not exist: false alarms that were none before must still be seen."""
    comparison = compare(record(alarms=(0.0, "lower")), record(alarms=(1.0, "lower")))
    assert comparison.rows[0].verdict == "worse" and comparison.rows[0].ratio is None
    assert "alarms" in comparison.format_table()
    assert verdicts(record(alarms=(0.0, "lower")), record(alarms=(0.0, "lower"))) == {"alarms": ""}


def test_a_figure_that_is_gone_is_no_pass_and_a_new_one_no_fault() -> None:
    one, both = record(a=(1.0, "lower")), record(a=(1.0, "lower"), b=(1.0, "lower"))
    assert verdicts(both, one) == {"a": "", "b": "missing"}
    assert compare(both, one).exit_code == 1
    assert verdicts(one, both) == {"a": "", "b": "new"}
    assert compare(one, both).exit_code == 0


def test_other_kinds_and_other_tasks_are_refused() -> None:
    first = record(a=(1.0, "lower"))
    with pytest.raises(UsageError, match="bench speed cannot be compared with one of bench map"):
        compare(first, replace(first, kind="map"))
    with pytest.raises(UsageError, match=r"different tasks: backbone lite / i3d-vggish"):
        compare(first, replace(first, task={"file": "a.mp4", "backbone": "i3d-vggish"}))
    with pytest.raises(UsageError, match="in s in the first run, in ms in the second"):
        compare(first, replace(first, figures=(Figure("a", 1.0, "ms"),)))
    with pytest.raises(UsageError, match="tolerance=-1"):
        compare(first, first, tolerance=-1)


def test_another_machine_device_or_version_is_a_warning() -> None:
    first = record(a=(1.0, "lower"))
    assert compare(first, first).warnings == ()
    busy = replace(first, machine={**MACHINE, "load": 9.0})
    assert compare(first, busy).warnings == ()
    (warning,) = compare(first, replace(first, machine={**MACHINE, "cores": 64})).warnings
    assert warning == "different machines: cores 2 / 64"
    assert "device cpu / cuda" in compare(first, replace(first, device="cuda")).warnings[0]
    second = replace(first, versions={"python": "3.12"})
    assert compare(first, second).warnings == ("different versions: python 3.11 / 3.12",)
    assert "warning: different versions" in compare(first, second).format_table()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no record of a benchmark"),
        ('{"format": "davel-benchmark", "version": 2}', "format version 2"),
        ('{"format": "davel-benchmark", "version": 1}', "is damaged"),
    ],
)
def test_other_files_are_no_records(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_record(tmp_path / "a.json")


def test_the_command_saves_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    words = ["bench", "softnms", "--candidates", "200", "--json"]
    assert main([*words, str(one)]) == 0 and main([*words, str(other)]) == 0
    saved = read_record(one)
    assert saved.kind == "softnms" and saved.task == {"candidates": 200, "keep": 100}
    assert [figure.unit for figure in saved.figures] == ["ms", "ms", "1"]
    slow = [replace(figure, value=figure.value * 10) for figure in saved.figures]
    replace(saved, figures=tuple(slow)).save(other)
    capsys.readouterr()
    assert main(["bench", "compare", str(one), str(other)]) == 1
    assert "2 of 3 figures worse" in capsys.readouterr().out
    assert main(["bench", "compare", str(one), str(other), "--tolerance", "20", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["figures"]
    assert [row["ratio"] for row in rows] == pytest.approx([10, 10, 10])
    assert main(["bench", "compare", str(one), str(tmp_path / "gone.json")]) == 2
    assert "pipeline bench KIND --json FILE" in capsys.readouterr().err
