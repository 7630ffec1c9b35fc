"""Tasks in threads of one process: bounded, in any order, and gone when nobody wants them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

import workflows.extraction.watchdog as watchdog_module
from extractors.interruption import check_interruption, interrupted_by, result_of
from extractors.media.process import WatchedProcess
from workflows.extraction.side_by_side import run_side_by_side
from workflows.extraction.watchdog import Watchdog


def wait_until_interrupted(_: object = None) -> None:
    for _ in range(3000):
        check_interruption()
        time.sleep(0.01)
    raise AssertionError("nobody asked")


def test_every_item_has_one_result_whatever_becomes_of_others() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return 2 * item

    results = {result.item: result for result in run_side_by_side(work, range(8), at_once=3)}
    assert sorted(results) == list(range(8))
    assert isinstance(results.pop(3).error, ValueError)
    assert all(result.value == 2 * item for item, result in results.items())


def test_so_many_are_in_flight_and_never_more() -> None:
    together = threading.Barrier(3, timeout=30)
    guard, now, most = threading.Lock(), [0], [0]

    def work(item: int) -> None:
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait()  # passes only when three are in flight
        with guard:
            now[0] -= 1

    assert all(r.error is None for r in run_side_by_side(work, range(9), at_once=3))
    assert most == [3]


def test_nothing_is_begun_before_a_place_is_free() -> None:
    taken: list[int] = []

    def items() -> object:
        for item in range(100):
            taken.append(item)
            yield item

    go, before = threading.Event(), []

    def open_up() -> None:
        while len(taken) < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        before.extend(taken)
        go.set()

    opener = threading.Thread(target=open_up)
    opener.start()
    results = run_side_by_side(lambda item: go.wait(30), items(), at_once=2)  # type: ignore[arg-type]
    next(results)
    results.close()
    opener.join()
    assert before == [0, 1]


def test_an_error_that_ends_all_ends_all() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise OSError("full")
        wait_until_interrupted()

    started = time.monotonic()
    results = list(
        run_side_by_side(
            work, range(50), at_once=2, ends_all=lambda error: isinstance(error, OSError)
        )
    )
    assert [result.item for result in results] == [1]
    assert sorted(begun) == [0, 1]
    assert time.monotonic() - started < 20


def test_leaving_early_asks_the_tasks_to_leave() -> None:
    left = []

    def work(item: int) -> None:
        if item == 0:
            return
        try:
            wait_until_interrupted()
        except KeyboardInterrupt:
            left.append(item)
            raise

    results = run_side_by_side(work, range(50), at_once=3)
    assert next(results).item == 0
    results.close()
    assert len(left) >= 2 and 0 not in left


def test_who_takes_the_results_in_a_thread_that_is_asked_to_leave_passes_that_on() -> None:
    left: list[int] = []
    begun = threading.Barrier(3, timeout=60)

    def work(item: int) -> None:
        begun.wait()
        try:
            wait_until_interrupted()
        except KeyboardInterrupt:
            left.append(item)
            raise

    stop = threading.Event()
    thread = in_thread(stop, lambda: list(run_side_by_side(work, range(5), at_once=2)))
    begun.wait()
    stop.set()
    thread.join(30)
    assert not thread.is_alive() and sorted(left) == [0, 1]


def test_a_task_that_is_interrupted_itself_interrupts_the_run() -> None:
    def work(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_side_by_side(work, range(3), at_once=2))


def test_none_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="at_once=0"):
        list(run_side_by_side(print, [1], at_once=0))


def in_thread(stop: threading.Event, work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with interrupted_by(stop), pytest.raises(KeyboardInterrupt):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_who_waits_for_a_decoder_that_is_silent_is_freed_and_the_decoder_killed() -> None:
    stop, children = threading.Event(), []

    def read() -> None:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = WatchedProcess(command, stall_timeout=600.0)
        children.append(child)
        assert child.fill(memoryview(bytearray(8))) == 0
        child.close()
        check_interruption()

    thread = in_thread(stop, read)
    while not children:
        time.sleep(0.01)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(children[0].pid, 0)


def test_who_waits_for_the_nets_is_freed() -> None:
    from concurrent.futures import Future

    stop, future = threading.Event(), Future[int]()
    thread = in_thread(stop, lambda: print(result_of(future)))
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a watchdog would have ended this process."""
    event = threading.Event()
    monkeypatch.setattr(watchdog_module.os, "_exit", lambda code: event.set())
    return event


def test_waiting_for_ones_turn_is_no_hang(ended: threading.Event) -> None:
    """One of four gets on every 0.1 s; the others have to wait for 1.6 patiences."""
    dogs = [Watchdog(str(number), patience=1.5) for number in range(4)]
    for dog in dogs:
        dog.__enter__()
    for _ in range(24):
        time.sleep(0.1)
        dogs[0].pat()
    assert not ended.is_set()
    for dog in dogs:
        dog.__exit__(None, None, None)


def test_one_that_hangs_while_others_get_on_is_found(ended: threading.Event) -> None:
    with Watchdog("hangs", patience=0.2), Watchdog("works", patience=0.2) as works:
        end = time.monotonic() + 30
        while not ended.is_set() and time.monotonic() < end:
            works.pat()
            time.sleep(0.01)
    assert ended.is_set()


def test_that_all_hang_is_found(ended: threading.Event) -> None:
    dogs = [Watchdog(str(number), patience=0.1) for number in range(4)]
    for dog in dogs:
        dog.__enter__()
    assert ended.wait(20)
    for dog in dogs:
        dog.__exit__(None, None, None)
