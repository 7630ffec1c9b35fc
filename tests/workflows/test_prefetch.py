"""Prefetching changes when items are made, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from workflows.training.prefetch import prefetch


def prefetch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]


def counted(made: list[int], count: int) -> Iterator[int]:
    """Numbers that are noted when they are made."""
    for number in range(count):
        made.append(number)
        yield number


def test_the_items_are_the_same_in_the_same_order() -> None:
    assert list(prefetch(range(100))) == list(range(100))
    assert list(prefetch(iter([]))) == []
    assert list(prefetch([None, 0, None])) == [None, 0, None]
    assert not prefetch_threads()


def test_the_next_item_is_made_while_the_caller_still_has_the_one_before() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    stream = prefetch(items())
    assert next(stream) == 1
    assert second.wait(timeout=30)  # without another call of next
    assert list(stream) == [2]


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_than_the_bound_is_made_ahead(ahead: int) -> None:
    made: list[int] = []
    stream = prefetch(counted(made, 50), ahead=ahead)
    for used, _ in enumerate(stream, start=1):
        assert len(made) <= used + ahead
    assert len(made) == 50


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    stream = prefetch(items(), ahead=3)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
    assert not prefetch_threads()


def test_a_caller_that_stops_early_leaves_no_thread_behind() -> None:
    made: list[int] = []
    stream = prefetch(counted(made, 10_000))
    assert next(stream) == 0
    stream.close()
    assert not prefetch_threads()
    assert len(made) < 10


def test_an_error_of_the_caller_ends_the_thread_too() -> None:
    with pytest.raises(KeyboardInterrupt):
        for _ in prefetch(range(10)):
            raise KeyboardInterrupt
    assert not prefetch_threads()


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(prefetch([1], ahead=0))
