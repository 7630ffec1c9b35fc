"""HTML and SVG from nested calls; what is not markup already is escaped, so nothing can slip in."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is markup already, made by this module only."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: Of the element.
        children: `Markup` as it is; any other text is escaped.
        attributes: A trailing underscore is dropped and the others become hyphens (``class_``,
            ``stroke_width``); None leaves an attribute out.
    """
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{listed}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Parts one after the other; those that are no `Markup` are escaped."""
    return Markup(
        "".join(part if isinstance(part, Markup) else html.escape(part) for part in parts)
    )


def _plain(value: str | float) -> str:
    """Numbers without noise: pages hold thousands of coordinates."""
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
