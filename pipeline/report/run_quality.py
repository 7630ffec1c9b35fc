"""Inside the model: similarity of its two streams, and the windows that it chose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.report.axes import MINUS
from pipeline.report.blocks import absent, table
from pipeline.report.charts import Box, box_chart
from pipeline.report.heat import HeatScale, heat_legend, heat_map
from pipeline.report.markup import Markup, join, tag
from pipeline.report.run_view import RunsView, RunView, WindowView
from pipeline.report.timeline import event_colours

MODALITY = {"vision": "picture", "audio": "sound"}
PART = {"both": "", "key": ", keys", "value": ", values"}


def similarity_section(view: RunsView) -> Markup:
    """Cross-similarity matrices and their mean deviation (LoCo, Fig. 4)."""
    if not any(run.similarity for run in view.runs):
        return absent("No run could be measured.")
    said = tag(
        "p",
        "Cosine of every step of the picture with every step of the sound, behind the unimodal "
        "blocks. The standard deviation of a video's matrix says how far the model tells moments "
        f"apart; its mean over {view.measured} test videos is the paper's “mean of std”, "
        "which it finds larger with LCC.",
    )
    rows = []
    for run in view.runs:
        found = run.similarity
        if found is None:
            rows.append([run.name, "not known", "", "", ""])
            continue
        same = "" if found.synchronous is None else f"{found.synchronous:.4f}"
        low, high = np.quantile(found.deviations, (0.05, 0.95))
        rows.append(
            [
                run.name,
                f"{found.mean_deviation:.4f}",
                f"{low:.4f} to {high:.4f}",
                f"{found.level:.4f}",
                same,
            ]
        )
    head = ["run", "mean of std", "std of 90 % of the videos", "mean", "mean of the same moment"]
    return join([said, table(head, rows), _nearest_sounds(view), _matrices(view)])


def _nearest_sounds(view: RunsView) -> Markup:
    """Whether the streams are matched by content or by position in the sequence."""
    rows = [
        [run.name, *(f"{100 * share:.1f} %" for share in found.nearest), f"{found.shifted:,}"]
        for run in view.runs
        if (found := run.similarity) is not None and found.nearest is not None
    ]
    if not rows:
        return absent("No video is long enough to shift its sound.")
    said = tag(
        "p",
        "Is a moment's sound found by what happens, or by its place in the sequence? Shares of the "
        "picture's steps whose most similar sound lies within a second of the named place. Then "
        "the same with the sound of ten seconds later: a model that goes by content follows the "
        "sound, one that goes by position stays.",
    )
    head = ["run", "same moment", "shifted: same position", "shifted: same content", "chance",
            "videos"]  # fmt: skip
    return join([said, table(head, rows)])


def _matrices(view: RunsView) -> Markup:
    known = [m for video in view.videos for m in video.matrices if m is not None]
    if not known:
        return absent("No video of the page has both picture and sound.")
    low = min(float(np.nanmin(matrix)) for matrix in known)
    high = max(float(np.nanmax(matrix)) for matrix in known)
    scale = HeatScale(math.floor(10 * low) / 10, math.ceil(10 * high) / 10)
    colours = event_colours(view.labels)
    groups = [heat_legend(scale, label="cosine")]
    for video in view.videos:
        maps = [
            heat_map(
                run.name, matrix, scale, span=video.matrix_span, events=video.truth, colours=colours
            )
            for run, matrix in zip(view.runs, video.matrices, strict=True)
            if matrix is not None
        ]
        groups.append(tag("h3", video.id))
        groups.append(tag("div", *maps, class_="maps") if maps else absent("Not known."))
    return join(groups)


def windows_section(view: RunsView) -> Markup:
    """Sizes and offsets per level and head, of each run with dynamic windows."""
    parts = []
    for run in view.runs:
        if not run.windows:
            continue
        parts.append(tag("h3", f"{run.name}: base window {run.windows[0].base} steps of a level"))
        blocks = list(dict.fromkeys((w.asks, w.answers, w.part) for w in run.windows))
        charts = [_block(run, *block) for block in blocks]
        parts.append(tag("div", *(c for pair in charts for c in pair), class_="pairs"))
        parts.append(_window_table(run.windows))
    if not parts:
        return absent("No run has dynamic windows that could be measured.")
    said = tag(
        "p",
        "A head of a level looks at W (1 + s) steps of the other stream, o W / 2 steps away. Lines "
        "reach from 5 to 95 % of the windows of the test videos, boxes from 25 to 75 %; a dashed "
        "line is where training starts. Heads stand side by side.",
    )
    return join([said, *parts])


def _block(run: RunView, asks: str, answers: str, part: str) -> list[Markup]:
    """Size and offset of the windows of one direction."""
    mine = [w for w in run.windows if (w.asks, w.answers, w.part) == (asks, answers, part)]
    title = f"{MODALITY[asks]} looks at {MODALITY[answers]}{PART[part]}"

    def boxes(name: str) -> list[Box]:
        return [
            Box(
                f"level {w.level}",
                f"level {w.level}, head {w.head}",
                f"h{(w.head - 1) % 4}",
                getattr(w, name),
            )
            for w in mine
        ]

    base = float(mine[0].base)
    return [
        box_chart(f"Size, {title}", boxes("size"), reference=base, y_label="steps of the level"),
        box_chart(f"Offset, {title}", boxes("offset"), reference=0.0, y_label="steps of the level"),
    ]


def _window_table(windows: Sequence[WindowView]) -> Markup:
    """The same in numbers, in steps and seconds."""
    rows = []
    for w in windows:
        low, _, middle, _, high = w.size
        near, _, centre, _, far = (value * w.step_seconds for value in w.offset)
        rows.append(
            [
                f"{MODALITY[w.asks]} at {MODALITY[w.answers]}{PART[w.part]}, level {w.level}, "
                f"head {w.head}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})".replace("-", MINUS),
                f"{middle * w.step_seconds:.2f} s".replace("-", MINUS),
                f"{centre:.2f} ({near:.2f} to {far:.2f}) s".replace("-", MINUS),
                f"{w.count:,}",
            ]
        )
    head = [
        "block", "size, steps: median (5 to 95 %)", "size, median", "offset: median (5 to 95 %)",
        "windows",
    ]  # fmt: skip
    return tag("details", tag("summary", "In numbers"), table(head, rows))
