"""Sections of the page of a run: training, timelines, cards.

Each says what is missing instead of leaving a gap.
"""

from __future__ import annotations

from pipeline.report.blocks import absent, table
from pipeline.report.charts import Line, line_chart, run_style
from pipeline.report.markup import Markup, join, tag
from pipeline.report.run_view import RunsView, VideoView
from pipeline.report.timeline import Track, event_colours, timeline

# Column of the log, caption of its chart, and whether the axis starts at 0.
CURVES = (
    ("loss", "Loss, all terms", True),
    ("classes", "Loss of classes (focal)", True),
    ("intervals", "Loss of intervals (IoU)", True),
    ("correspondence", "Loss of correspondence (LCC), unweighted", True),
    ("validation_mAP", "mAP on validation", True),
    ("lr", "Learning rate", True),
    ("sigma", "Deviation (sigma) of LCC's target, in loss.sigma_unit", False),
    ("temperature", "Temperature (tau) of LCC", False),
    ("gradient_norm", "Norm of the gradient before clipping", True),
    ("normaliser", "Normaliser: mean of positive points", False),
    ("missed", "Events without a positive point", True),
    ("seconds", "Seconds an epoch", True),
)


def curves_section(view: RunsView) -> Markup:
    """The terms of the loss, what is learned beside the weights, and the windows, by epoch."""
    if not any(run.log for run in view.runs):
        return absent("No run has a training log.")
    charts = [
        line_chart(caption, _lines(view, column), zero=zero) for column, caption, zero in CURVES
    ]
    levels = 1
    while any(f"window_size_{levels}" in row for run in view.runs for row in run.log):
        levels += 1
    for level in range(1, levels):
        size, offset = f"window_size_{level}", f"window_offset_{level}"
        charts += [
            line_chart(f"Mean window size on level {level}, in base windows", _lines(view, size)),
            line_chart(
                f"Mean distance of windows on level {level}, in base windows",
                _lines(view, offset),
                zero=True,
            ),
            line_chart(
                f"Share of windows on level {level} that run backwards",
                _lines(view, f"window_backwards_{level}"),
                zero=True,
            ),
        ]
    shown = [chart for chart in charts if chart]
    usual = len(CURVES)
    main = [chart for chart in charts[:usual] if chart]
    more = shown[len(main) :]
    parts = [tag("div", *main, class_="charts")]
    if more:
        parts.append(
            tag(
                "details",
                tag("summary", "Windows over training, level by level"),
                tag("div", *more, class_="charts"),
            )
        )
    return join(parts)


def _lines(view: RunsView, column: str) -> list[Line]:
    """A line for each run that has the column; without LCC its loss is no curve of zeros."""
    return [
        Line(
            run.name,
            run_style(index),
            [(row["epoch"], row[column]) for row in run.log if column in row],
        )
        for index, run in enumerate(view.runs)
        if column != "correspondence" or run.last("temperature") is not None
    ]


def timelines_section(view: RunsView) -> Markup:
    """Ground truth and what each run found (LoCo, Fig. 5)."""
    if not view.videos:
        return absent("No run has both weights and features: there is nothing to show.")
    limits = ", ".join(
        f"{run.name} {run.threshold:.2f}" for run in view.runs if run.threshold is not None
    )
    colours = event_colours(view.labels)
    said = tag(
        "p",
        "Events at or above each run's threshold: the score that was best on validation, or a "
        f"fixed one where nothing was validated ({limits}); the stronger the colour, the higher "
        "the score.",
    )
    return join([said, *(_timeline(view, video, colours) for video in view.videos)])


def _timeline(view: RunsView, video: VideoView, colours: dict[str, str]) -> Markup:
    tracks = [Track("ground truth", "", video.truth)]
    tracks += [
        Track(run.name, run_style(index), found)
        for index, (run, found) in enumerate(zip(view.runs, video.found, strict=True))
    ]
    return timeline(video.id, tracks, duration=video.duration, colours=colours)


def cards_section(view: RunsView) -> Markup:
    """What each run is and how to make it again."""
    parts = []
    if view.differences:
        head = ["differs between the recipes", *(run.name for run in view.runs)]
        parts.append(table(head, [[name, *values] for name, values in view.differences]))
    for index, run in enumerate(view.runs):
        facts = [
            join([tag("dt", name), tag("dd", tag("code", value))]) for name, value in run.facts
        ]
        parts.append(
            tag(
                "article",
                tag("h3", tag("span", class_=f"mark {run_style(index)}"), run.name),
                tag("dl", *facts),
                tag("details", tag("summary", "Recipe"), tag("pre", run.recipe)),
            )
        )
    return join(parts)
