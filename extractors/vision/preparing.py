"""Threads that scale pictures for a net."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.core.cores import core_count

MOST = 8  # threads of one net: decoders and the other net want cores, too


def preparing_pool(threads: int | None) -> ThreadPoolExecutor:
    """A pool that prepares pictures beside the net.

    Args:
        threads: Of the pool; None takes the cores of this process, at most `MOST`.
    """
    return ThreadPoolExecutor(threads or min(MOST, core_count()))
