"""The table of a study: means and deviations over seeds, and differences paired by seed."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.atomic import write_json, write_text

SHOWN_FROM = 0.5  # columns start at this tIoU, as in the tables of the field


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over seeds.

    Attributes:
        values: By seed.
    """

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (divisor n - 1); None of a single value."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def format(self, *, sign: bool = False) -> str:
        """In percent, such as ``53.40 ± 0.31``."""
        text = f"{100 * self.mean:{'+' if sign else ''}.2f}"
        return text if self.deviation is None else f"{text} ± {100 * self.deviation:.2f}"

    def to_json(self) -> dict[str, Any]:
        """As plain values, fractions of 1."""
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "by_seed": {str(seed): value for seed, value in self.values.items()},
        }


@dataclass(frozen=True, slots=True)
class StudyRow:
    """All that is known of one variant or baseline.

    Attributes:
        name: In the table.
        metrics: Contents of ``metrics.json`` by seed, as `workflows.study.trial.run_trial` gives
            them; only runs that ended.
    """

    name: str
    metrics: Mapping[int, Mapping[str, Any]]

    @property
    def average(self) -> Spread:
        """Mean mAP over all thresholds."""
        return Spread(
            {seed: float(run["scores"]["average_mAP"]) for seed, run in self.metrics.items()}
        )

    def at(self, tiou: float) -> Spread:
        """The mAP at one threshold."""
        found = {}
        for seed, run in self.metrics.items():
            levels = run["scores"]["tiou"]
            found[seed] = float(run["scores"]["mAP"][levels.index(tiou)])
        return Spread(found)

    @property
    def tiou(self) -> list[float]:
        """All thresholds."""
        levels: list[float] = next(iter(self.metrics.values()))["scores"]["tiou"]
        return levels

    def mean_of(self, name: str) -> float | None:
        """Mean over seeds of a number beside the scores; None where a run has none."""
        values = [run.get(name) for run in self.metrics.values()]
        known = [float(value) for value in values if value is not None]
        return statistics.fmean(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Rows of a study, finished or not.

    Attributes:
        title: Of the study.
        rows: In the order of the file; others are compared with the first.
        seeds: That the study asks for.
        notes: Sentences below the table.
    """

    title: str
    rows: Sequence[StudyRow]
    seeds: Sequence[int]
    notes: Sequence[str] = field(default=())

    def difference(self, row: StudyRow) -> Spread | None:
        """Average mAP less that of the first row with the same seed.

        None for the first row, and where they have no seed in common.
        """
        first = self.rows[0]
        if row is first:
            return None
        theirs, mine = first.average.values, row.average.values
        paired = {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}
        return Spread(paired) if paired else None

    def format_markdown(self) -> str:
        """The table as Markdown; mAP in percent."""
        head, *body = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [cells[0].ljust(widths[0])]
            padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            return "| " + " | ".join(padded) + " |"

        rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [line(head), line(rule), *map(line, body), ""]
        lines += [
            f"{self.title}: mAP (%), mean ± standard deviation over "
            f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}; Δ is the difference of Avg to "
            f"{self.rows[0].name if self.rows else 'the first row'}, seed by seed."
        ]
        return "\n".join([*lines, *self.notes])

    def format_csv(self) -> str:
        """One line for each run, fractions of 1; for other programs."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        levels = next((row.tiou for row in self.rows if row.metrics), [])
        writer.writerow(
            ["name", "seed", *(f"mAP@{level:g}" for level in levels), "average_mAP",
             "parameters", "seconds"]
        )  # fmt: skip
        for row in self.rows:
            for seed, run in row.metrics.items():
                scores = run["scores"]
                extra = [run.get("parameters"), run.get("seconds")]
                writer.writerow([row.name, seed, *scores["mAP"], scores["average_mAP"], *extra])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """The table as plain values, fractions of 1."""
        rows = []
        for row in self.rows:
            entry: dict[str, Any] = {"name": row.name, "runs": len(row.metrics)}
            if row.metrics:
                entry["average_mAP"] = row.average.to_json()
                entry["mAP"] = {f"{level:g}": row.at(level).to_json() for level in row.tiou}
                difference = self.difference(row)
                entry["difference"] = difference and difference.to_json()
                entry["parameters"] = row.mean_of("parameters")
                entry["seconds"] = row.mean_of("seconds")
            rows.append(entry)
        return {"title": self.title, "seeds": list(self.seeds), "rows": rows,
                "notes": list(self.notes)}  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write ``table.md``, ``table.csv`` and ``table.json``."""
        write_text(folder / "table.md", self.format_markdown() + "\n")
        write_text(folder / "table.csv", self.format_csv())
        write_json(folder / "table.json", self.to_json())

    def _cells(self) -> list[list[str]]:
        known = next((row.tiou for row in self.rows if row.metrics), [])
        levels = [level for level in known if level >= SHOWN_FROM - 1e-9] or known
        table = [["", *(f"{level:g}" for level in levels), "Avg", "Δ Avg", "params (M)", "s"]]
        for row in self.rows:
            if not row.metrics:
                table.append([row.name, *["-"] * (len(table[0]) - 1)])
                continue
            difference = self.difference(row)
            missing = len(self.seeds) - len(row.metrics)
            partial = f" ({len(row.metrics)} of {len(self.seeds)})"
            table.append(
                [
                    row.name + (partial if missing > 0 else ""),
                    *(row.at(level).format() for level in levels),
                    row.average.format(),
                    "" if difference is None else difference.format(sign=True),
                    _number(row.mean_of("parameters"), scale=1e-6, digits=2),
                    _number(row.mean_of("seconds"), scale=1.0, digits=0),
                ]
            )
        return table


def _number(value: float | None, *, scale: float, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{scale * value:.{digits}f}"
