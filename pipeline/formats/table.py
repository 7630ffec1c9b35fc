"""The table of writers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import UsageError
from pipeline.core.events import Detections
from pipeline.formats import (
    activitynet,
    audacity,
    csv_rows,
    curves_csv,
    elan,
    html_page,
    json_events,
    subtitles,
)

Render = Callable[[Sequence[Detections], Path | None], str]
"""Events of some videos to text; the second argument is where the text will be saved, if known."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One output format.

    Attributes:
        name: As given to ``--format``.
        suffix: Of its files, with the dot.
        summary: One line for the help text.
        many: Whether one file can hold several videos.
        render: Makes the text.
        of_curves: Whether it holds curves, which a file of events has none of.
    """

    name: str
    suffix: str
    summary: str
    many: bool
    render: Render
    of_curves: bool = False


FORMATS: Mapping[str, Writer] = {
    writer.name: writer
    for writer in (
        Writer("json", ".json", "events, notes and detector", True, json_events.render),
        Writer("csv", ".csv", "one row an event, for spreadsheets", True, csv_rows.render),
        Writer(
            "curves",
            ".curves.csv",
            "one row a step, one column a class: the activations and the agreement",
            False,
            curves_csv.render,
            of_curves=True,
        ),
        Writer("srt", ".srt", "subtitles for players", False, subtitles.render_srt),
        Writer("vtt", ".vtt", "subtitles for web players", False, subtitles.render_vtt),
        Writer("audacity", ".txt", "a label track for Audacity", False, audacity.render),
        Writer("elan", ".eaf", "one tier a class, for ELAN", False, elan.render),
        Writer(
            "activitynet",
            ".activitynet.json",
            "results file that ActivityNet-style evaluators read",
            True,
            activitynet.render,
        ),
        Writer("html", ".html", "page with player and timeline", True, html_page.render),
    )
}


def format_writer(name: str) -> Writer:
    """The writer of a format.

    Raises:
        UsageError: There is no such format.
    """
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(name, FORMATS, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"unknown output format {name!r}", hint=f"{guess}choose from {', '.join(FORMATS)}"
    )
