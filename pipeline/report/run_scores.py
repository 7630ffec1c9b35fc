"""Scores of runs: mAP per tIoU and per class."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.blocks import absent, table
from pipeline.report.charts import Line, line_chart, run_style
from pipeline.report.markup import Markup, join, tag
from pipeline.report.run_view import RunsView, RunView


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def scores_section(view: RunsView) -> Markup:
    """The mAP per tIoU and per class."""
    scored = [(index, run) for index, run in enumerate(view.runs) if run.scores is not None]
    if not scored:
        return absent("No run has scores yet: the eval stage writes them.")
    levels = sorted({level for _, run in scored if run.scores for level in run.scores.tiou})
    rows, lines = [], []
    for index, run in scored:
        assert run.scores is not None
        pairs = list(zip(run.scores.tiou, run.scores.mean, strict=True))
        known = dict(pairs)
        cells = [_percent(known[level]) if level in known else "" for level in levels]
        rows.append([run.name, *cells, _percent(run.scores.average)])
        lines.append(Line(run.name, run_style(index), [(x, 100 * y) for x, y in pairs]))
    first = scored[0][1]
    assert first.scores is not None
    base = list(zip(first.scores.tiou, first.scores.baseline, strict=True))
    cells = [_percent(dict(base)[level]) if level in dict(base) else "" for level in levels]
    name = f"whole-video answers of {first.name}"
    mean = sum(first.scores.baseline) / max(1, len(first.scores.baseline))
    rows.append([name, *cells, _percent(mean)])
    lines.append(Line(name, "baseline", [(x, 100 * y) for x, y in base]))
    chart = line_chart(
        f"mAP (%) at each tIoU, {first.scores.videos} test videos",
        lines,
        x_label="tIoU",
        zero=True,
        width=520,
        height=220,
    )
    head = ["mAP (%) at tIoU", *(f"{level:.2g}" for level in levels), "mean"]
    return join([tag("div", chart, class_="wide"), table(head, rows), _classes(scored)])


def _classes(scored: Sequence[tuple[int, RunView]]) -> Markup:
    """Average precision of each class, the most frequent first."""
    events: dict[str, int] = {}
    for _, run in scored:
        assert run.scores is not None
        events |= run.scores.events
    rows = []
    for label in sorted(events, key=lambda label: (-events[label], label)):
        row: list[str] = [label, str(events[label])]
        for index, run in scored:
            assert run.scores is not None
            value = run.scores.classes.get(label)
            row.append("" if value is None else _meter(value, run_style(index)))
        rows.append(row)
    head = ["class", "events", *(f"{run.name}, AP (%)" for _, run in scored)]
    return tag(
        "details",
        tag("summary", f"Each of the {len(events)} classes (mean over tIoU)"),
        table(head, rows),
        open="" if len(events) <= 20 else None,
    )


def _meter(share: float, style: str) -> Markup:
    """A number with a bar of its size."""
    bar = tag("rect", class_=style, width=100 * min(max(share, 0.0), 1.0), height=10)
    return join(
        [
            tag("span", f"{100 * share:.1f}", class_="number"),
            tag(
                "svg",
                bar,
                viewBox="0 0 100 10",
                preserveAspectRatio="none",
                class_="meter",
                aria_hidden="true",
            ),
        ]
    )
