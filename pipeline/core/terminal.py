"""What a terminal would obey is shown to it, not sent.

Names of files, ids and labels come from strangers. A terminal takes some of their characters for
orders: to change its title, to clear what stands above, to write what comes in another direction.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO

# Control characters but tab and end of line, and those that turn the direction of what follows.
_ORDERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """The text with what a terminal would obey written out as Python writes it."""
    return _ORDERS.sub(_written_out, text)


@contextmanager
def plain_output() -> Iterator[None]:
    """Send no orders of strangers to a terminal, through standard output and error, in the block.

    What goes elsewhere, to a file or another program, goes as it is; but half characters, which
    stand for bytes of a name that are no UTF-8 and which no stream takes, are written out as well.
    """
    before = sys.stdout, sys.stderr
    ways = [getattr(stream, "errors", None) for stream in before]
    for stream in before:
        _take_errors(stream, "backslashreplace")
    sys.stdout, sys.stderr = map(_guarded, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, way in zip(before, ways, strict=True):
            _take_errors(stream, way)


def _take_errors(stream: Any, way: str | None) -> None:
    """Say what a stream does with what cannot be encoded, where it can be told."""
    if way is not None and isinstance(stream, TextIOWrapper) and not stream.closed:
        stream.reconfigure(errors=way)


def _guarded(stream: TextIO) -> Any:
    return _Plain(stream) if stream is not None and stream.isatty() else stream


class _Plain:
    """A text stream to a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text; a return in front stays, by which progress bars draw over themselves."""
        bar = text[: text.startswith("\r")]
        self._stream.write(bar + shown(text[len(bar) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write some texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
