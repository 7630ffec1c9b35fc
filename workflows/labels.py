"""The classes that a user asks for, held against those that a detector knows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pipeline.core.errors import UsageError


def known_labels(
    wanted: Sequence[str] | None, known: Sequence[str], reasons: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The classes to report, in the detector's order.

    Args:
        wanted: Names, or None for all.
        known: What the detector knows.
        reasons: Why it does not know certain other classes.

    Raises:
        UsageError: A name is not known; it says why, or what is spelt like it.
    """
    if wanted is None:
        return tuple(known)
    if not wanted:
        raise UsageError("no class to report is left", hint="name at least one label")
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"unknown label {name!r}", hint=_label_hint(name, known, reasons or {})
            )
    return tuple(label for label in known if label in set(wanted))


def _label_hint(name: str, known: Sequence[str], reasons: Mapping[str, str]) -> str:
    if name in reasons:
        return f"this detector cannot know it: {reasons[name]}"
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(label) for label in close)}?"
    return f"the detector knows {len(known)} classes, among them {known[0]!r}"
