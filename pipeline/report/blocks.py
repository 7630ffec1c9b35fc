"""Building blocks that several sections of a page share."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.markup import Markup, tag


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table whose first column names the row."""
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
            tag(
                "tbody",
                *(
                    tag("tr", tag("th", row[0], scope="row"), *(tag("td", c) for c in row[1:]))
                    for row in rows
                ),
            ),
        ),
        class_="scroll",
    )


def absent(text: str) -> Markup:
    """A sentence in the place of something that is not there."""
    return tag("p", text, class_="none")
