"""Cells of CSV files that a spreadsheet program would take for formulas.

Videos, ids and labels may come from strangers, and a formula can fetch an address or start a
program. An apostrophe in front makes text of it; it is taken away when the file is read. Ids of
YouTube may begin with a hyphen: what begins so and is nothing that could be a call stays as it is.
"""

from __future__ import annotations

import re

# Wide forms of the four signs count, too: some programs read them as the signs themselves.
_FORMULA = re.compile(r"'*(?:[=@\uff1d\uff20\t\r\n]|[-+\uff0d\uff0b](?![\w ./+-]*\Z))")


def guard(text: str) -> str:
    """The text for a cell."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(text: str) -> str:
    """Inverse of `guard`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
