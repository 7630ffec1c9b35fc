"""Hold two runs of one benchmark against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.core.errors import UsageError
from workflows.bench.record import BenchRecord, Figure

Verdict = Literal["", "better", "worse", "missing", "new"]
# What makes times on two machines incomparable; the load and free memory change from run to run.
SAME_MACHINE = ("processor", "cores", "usable_cores", "memory_bytes", "gpus", "threads")


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of both runs.

    Attributes:
        name: What it is.
        unit: Of both values.
        before: In the first run; None where that has no such figure.
        after: In the second run, likewise.
        verdict: ``better`` or ``worse`` beyond the tolerance; ``missing`` where only the first run
            has it, ``new`` where only the second has; else "".
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """Second over first; None where there are not two, or the first is zero."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return self.after / self.before


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        kind: Which benchmark.
        commits: Of the first and of the second run.
        tolerance: Share by which a figure may be worse.
        rows: All figures, in the order of the first run.
        warnings: Why times may differ though the program does not.
    """

    kind: str
    commits: tuple[str, str]
    tolerance: float
    rows: tuple[ComparedFigure, ...]
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where a figure is worse or missing, else 0."""
        return int(any(row.verdict in ("worse", "missing") for row in self.rows))

    def format_table(self) -> str:
        """The comparison as text: one row a figure."""
        first, second = (commit or "unknown" for commit in self.commits)
        width = max([len(row.name) for row in self.rows] + [6])
        lines = [f"bench {self.kind}: {first} -> {second}, tolerance {self.tolerance:.0%}"]
        lines += [f"warning: {words}" for words in self.warnings]
        lines += ["", f"{'figure':<{width}} {'first':>12} {'second':>12} {'ratio':>7}"]
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            values = f"{_number(row.before):>12} {_number(row.after):>12} {ratio:>7}"
            lines.append(f"{row.name:<{width}} {values}  {row.unit:<6} {row.verdict}".rstrip())
        worse = sum(row.verdict in ("worse", "missing") for row in self.rows)
        lines += ["", f"{worse} of {len(self.rows)} figures worse" if worse else "nothing is worse"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "kind": self.kind,
            "commits": list(self.commits),
            "tolerance": self.tolerance,
            "warnings": list(self.warnings),
            "figures": [
                {
                    "name": row.name,
                    "unit": row.unit,
                    "first": row.before,
                    "second": row.after,
                    "ratio": row.ratio,
                    "verdict": row.verdict,
                }
                for row in self.rows
            ],
        }


def compare(first: BenchRecord, second: BenchRecord, *, tolerance: float = 0.1) -> Comparison:
    """Compare two runs of the same benchmark at the same task.

    Args:
        first: What is compared with.
        second: What is judged.
        tolerance: Share by which a figure may be worse: 0.1 lets a time grow by a tenth, and a
            rate fall to one eleventh less.

    Raises:
        UsageError: The runs are of different benchmarks or tasks, or the tolerance is negative.
    """
    if not 0 <= tolerance < float("inf"):
        raise UsageError(f"tolerance={tolerance} is no share", hint="give 0.1 for ten per cent")
    if first.kind != second.kind:
        raise UsageError(
            f"a run of bench {first.kind} cannot be compared with one of bench {second.kind}",
            hint="give two files of one kind",
        )
    differing = _differences(first.task, second.task)
    if differing:
        raise UsageError(
            f"the two runs of bench {first.kind} measured different tasks: {differing}",
            hint="run both with the same arguments",
        )
    return Comparison(
        first.kind,
        (first.commit, second.commit),
        tolerance,
        tuple(_rows(first, second, tolerance)),
        tuple(_warnings(first, second)),
    )


def _rows(first: BenchRecord, second: BenchRecord, tolerance: float) -> list[ComparedFigure]:
    after = {figure.name: figure for figure in second.figures}
    rows = [_row(figure, after.pop(figure.name, None), tolerance) for figure in first.figures]
    news: list[ComparedFigure] = [
        ComparedFigure(figure.name, figure.unit, None, figure.value, "new")
        for figure in after.values()
    ]
    return rows + news


def _row(before: Figure, after: Figure | None, tolerance: float) -> ComparedFigure:
    if after is None:
        return ComparedFigure(before.name, before.unit, before.value, None, "missing")
    if before.unit != after.unit:
        raise UsageError(
            f"{before.name!r} is in {before.unit} in the first run, in {after.unit} in the second",
            hint="run both with the same version of the program",
        )
    verdict = _verdict(before, after.value, tolerance)
    return ComparedFigure(before.name, before.unit, before.value, after.value, verdict)


def _verdict(before: Figure, after: float, tolerance: float) -> Verdict:
    if before.better == "neither" or after == before.value:
        return ""
    small, large = sorted((before.value, after))
    if small >= 0 and large <= small * (1 + tolerance):
        return ""
    return "better" if (after > before.value) == (before.better == "higher") else "worse"


def _warnings(first: BenchRecord, second: BenchRecord) -> list[str]:
    machines = _differences(
        {key: first.machine.get(key) for key in SAME_MACHINE} | {"device": first.device},
        {key: second.machine.get(key) for key in SAME_MACHINE} | {"device": second.device},
    )
    packages = _differences(first.versions, second.versions)
    found = [f"different machines: {machines}"] if machines else []
    return found + ([f"different versions: {packages}"] if packages else [])


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """``name one / other`` for each key whose values differ; "" where none do."""
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return ", ".join(f"{name} {first.get(name)} / {second.get(name)}" for name in names)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
