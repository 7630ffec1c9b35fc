"""The page of one training run, or of several side by side, in one file that works offline."""

from __future__ import annotations

import html
from collections.abc import Callable

from pipeline.report.assets import asset, fill, source_hash
from pipeline.report.charts import run_style
from pipeline.report.markup import Markup, join, tag
from pipeline.report.run_quality import similarity_section, windows_section
from pipeline.report.run_scores import scores_section
from pipeline.report.run_sections import cards_section, curves_section, timelines_section
from pipeline.report.run_view import RunsView

# Address on the page, heading, and what draws it.
SECTIONS: tuple[tuple[str, str, Callable[[RunsView], Markup]], ...] = (
    ("scores", "Scores", scores_section),
    ("curves", "Training", curves_section),
    ("timelines", "Timelines", timelines_section),
    ("similarity", "Similarity of picture and sound", similarity_section),
    ("windows", "Windows that the model chose", windows_section),
    ("cards", "Runs", cards_section),
)


def render_run_page(view: RunsView) -> str:
    """One page about some runs.

    It holds no script and loads nothing: its content security policy admits its own style (by
    hash) and pictures that lie in the page itself. All names, paths and labels are escaped.

    Args:
        view: What `workflows.quality.report.report_runs` gathered.

    Returns:
        The HTML text.
    """
    style = asset("style.css") + asset("run_page.css")
    policy = (
        f"default-src 'none'; style-src {source_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"Run {view.runs[0].name}"
    others = [run.name for run in view.runs[1:]]
    if others:
        title += f" beside {', '.join(others)}"
    parts = {
        "title": html.escape(title),
        "policy": html.escape(policy),
        "style": style,
        "links": join(tag("a", heading, href=f"#{name}") for name, heading, _ in SECTIONS),
        "legend": _legend(view),
        "notes": _notes(view),
        "sections": join(
            tag("section", tag("h2", heading), draw(view), id=name)
            for name, heading, draw in SECTIONS
        ),
    }
    page = fill(asset("run_page.html"), parts)
    # Bytes of a file name that are no UTF-8 appear as backslash escapes.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _legend(view: RunsView) -> Markup:
    """Colour, name and main choices of each run."""
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag("span", class_=f"mark {run_style(index)}"),
                tag("strong", run.name),
                f" {run.about}",
            )
            for index, run in enumerate(view.runs)
        ),
        class_="legend",
    )


def _notes(view: RunsView) -> Markup:
    """What the reader must know, parts that are missing among it."""
    said = list(view.notes)
    said += [f"{run.name}: {part}" for run in view.runs for part in run.missing]
    if not said:
        return Markup("")
    return tag("ul", *(tag("li", text) for text in said), id="notes", aria_label="Notes")
