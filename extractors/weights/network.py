"""Whether the network may be used, and what is asked before the official addresses.

Both are properties of a whole run, not of one net among several, so they are set once around
whatever loads weights, and read where a file is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OFFLINE_VARIABLE = "PIPELINE_OFFLINE"
MIRRORS_VARIABLE = "PIPELINE_MIRRORS"

_offline: ContextVar[bool | None] = ContextVar("offline", default=None)


def is_offline() -> bool:
    """Whether the network must not be touched: by `network`, else by ``PIPELINE_OFFLINE``."""
    chosen = _offline.get()
    if chosen is not None:
        return chosen
    return os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0")


@contextmanager
def network(*, offline: bool | None) -> Iterator[None]:
    """Allow or forbid the network inside a block.

    Args:
        offline: True forbids it, False allows it; None leaves it as it is outside.
    """
    token = _offline.set(_offline.get() if offline is None else offline)
    try:
        yield
    finally:
        _offline.reset(token)


def mirrors() -> tuple[str, ...]:
    """Addresses under which copies of weights lie, from ``PIPELINE_MIRRORS``, by white space."""
    return tuple(os.environ.get(MIRRORS_VARIABLE, "").split())
