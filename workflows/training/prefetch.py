"""Make the next items in a thread while the current one is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")


class _End:
    """What comes after the last item."""


END: Final = _End()


def prefetch(items: Iterable[Item], *, ahead: int = 2) -> Generator[Item, None, None]:
    """The same items in the same order, made by one thread ahead of their use.

    While the caller works on an item, up to ``ahead`` more are made or wait; memory is bounded by
    that. An error in making an item is raised where the item would have come. The thread ends with
    the items, or when the caller stops in the middle.

    Args:
        items: Their making must not depend on what the caller does with earlier ones.
        ahead: At least 1.
    """
    if ahead < 1:
        raise ValueError(f"{ahead} items cannot be made ahead: at least 1")
    source = iter(items)
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    waiting: deque[Future[Item | _End]] = deque()
    try:
        waiting.extend(worker.submit(next, source, END) for _ in range(ahead))
        while not isinstance(item := waiting.popleft().result(), _End):
            waiting.append(worker.submit(next, source, END))
            yield item
    finally:
        worker.shutdown(wait=True, cancel_futures=True)
