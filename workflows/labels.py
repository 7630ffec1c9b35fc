"""The classes that a user asks for, held against those that a detector knows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pipeline.core.errors import UsageError


def known_labels(
    wanted: Sequence[str] | None,
    known: Sequence[str],
    reasons: Mapping[str, str] | None = None,
    *,
    elsewhere: str = "",
) -> tuple[str, ...]:
    """The classes to report, in the detector's order.

    Args:
        wanted: Names, or None for all. Case does not matter where only one class fits.
        known: What the detector knows.
        reasons: Why it does not know certain other classes.
        elsewhere: What knows others; ends a hint.

    Raises:
        UsageError: A name is not known; it says why, or what is spelt like it.
    """
    if wanted is None:
        return tuple(known)
    if not wanted:
        raise UsageError("no class to report is left", hint="name at least one label")
    chosen = {_known(name, known, reasons or {}, elsewhere) for name in wanted}
    return tuple(label for label in known if label in chosen)


def _known(name: str, known: Sequence[str], reasons: Mapping[str, str], elsewhere: str) -> str:
    """The detector's own spelling: the same, or the one class that differs in case and spaces."""
    if name in known:
        return name
    plain = " ".join(name.split()).casefold()
    alike = [label for label in known if label.casefold() == plain]
    if len(alike) == 1:
        return alike[0]
    reason = next((why for label, why in reasons.items() if label.casefold() == plain), None)
    hint = _label_hint(name, known, reason)
    raise UsageError(f"unknown label {name!r}", hint=f"{hint}; {elsewhere}" if elsewhere else hint)


def _label_hint(name: str, known: Sequence[str], reason: str | None) -> str:
    if reason is not None:
        return f"this detector cannot know it: {reason}"
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(label) for label in close)}?"
    return f"the detector knows {len(known)} classes, among them {known[0]!r}"
