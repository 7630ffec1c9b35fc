"""What is said while weights are fetched: lines, and a bar on a terminal."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from tqdm import tqdm

DELAY_S = 2.0  # what is over before then shows no bar


class Watcher(Protocol):
    """Is told of a fetch."""

    def say(self, line: str) -> None:
        """Something that a person should know."""
        ...

    def progress(self, what: str, done: int, total: int | None) -> None:
        """How far it is.

        Args:
            what: The file, and what is done with it.
            done: Bytes that are done.
            total: Of how many; None where that is not known.
        """
        ...


class Silent:
    """Says nothing."""

    def say(self, line: str) -> None:
        """Drop it."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Drop it."""


class OnStandardError:
    """Lines, and a bar on a terminal; standard output is for results."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._what = ""

    def say(self, line: str) -> None:
        """Write a line."""
        self._close()
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Move the bar."""
        if what != self._what:
            self._close()
        bar = self._bar
        if bar is None:
            bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                unit="B",
                unit_scale=True,
                disable=None,  # tqdm: on a terminal only
                delay=DELAY_S,
                file=sys.stderr,
                dynamic_ncols=True,
            )
            self._bar, self._what = bar, what
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar, self._what = None, ""
