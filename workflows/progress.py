"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

DELAY_S = 2.0  # what is over before then shows no bar


class Progress:
    """A bar on standard error for work of a known number of items.

    Quiet where standard error is no terminal, and for work of less than two seconds.

    Args:
        total: Number of items.
        what: What is being done, one word or two.
        unit: What an item is.
    """

    def __init__(self, total: int, *, what: str, unit: str = "video") -> None:
        self._bar = tqdm(
            total=total,
            desc=what,
            unit=f" {unit}",
            disable=None,  # tqdm: on a terminal only
            delay=DELAY_S,
            file=sys.stderr,
            dynamic_ncols=True,
            smoothing=0.1,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, note: str = "") -> None:
        """One item is done; ``note`` stands behind the bar."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update()
