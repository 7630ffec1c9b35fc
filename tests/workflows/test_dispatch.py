"""A cluster's workers are kept busy, and who waits for workers in vain is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.core.errors import EnvironmentFault
from workflows import dispatch as module
from workflows.dispatch import Ended, Workers, dispatch
from workflows.tasks import TaskResult


class Scripted:
    """A cluster that says at each look what a script says, and ends tasks while somebody is there.

    Args:
        looks: Who is there; the last one stays.
        kills: Items that kill a worker each time.
    """

    def __init__(self, looks: list[Workers], *, kills: frozenset[int] = frozenset()) -> None:
        self.looks = looks
        self.kills = kills
        self.submitted: list[tuple[int, bool]] = []
        self.most = 0
        self._open = 0
        self._late: dict[int, int] = {}

    def workers(self) -> Workers:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def submit(self, item: int, *, on_gpu: bool, ended: Callable[[Any], None]) -> Any:
        self.submitted.append((item, on_gpu))
        self._open += 1
        self.most = max(self.most, self._open)
        handle = (len(self.submitted), item)
        if self.looks[0].gpus or (self.looks[0].threads and not on_gpu):
            ended(handle)
        return handle

    def collect(self, handle: Any, *, ended: Callable[[Any], None]) -> Ended | None:
        number, item = handle
        if item < 0 and self._late.setdefault(number, 0) == 0:
            self._late[number] += 1
            ended(handle)
            return None
        self._open -= 1
        if item in self.kills:
            return Ended(error=RuntimeError("killed"), killed=True)
        if item == 1313:
            return Ended(error=ImportError("no such task there"))
        return Ended(TaskResult(item, value=item * 2))


CPUS, GPU, NOBODY = Workers(2, 0), Workers(3, 1), Workers(0, 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "REST", 0)
    monkeypatch.setattr(module, "WORKERS_S", 0.02)
    monkeypatch.setattr(module, "ABANDONED_S", 0.2)


def test_there_are_as_many_in_flight_as_there_are_workers() -> None:
    cluster = Scripted([CPUS])
    assert [result.value for result in dispatch(cluster, range(5))] == [0, 2, 4, 6, 8]
    assert cluster.most == 2
    more = Scripted([CPUS])
    list(dispatch(more, range(9), at_least=4))
    assert more.most == 4


def test_a_result_that_has_to_be_waited_for_once_more_is_waited_for() -> None:
    assert [result.value for result in dispatch(Scripted([CPUS]), [-1, -2])] == [-2, -4]


def test_what_kills_workers_is_given_up_after_two_and_the_number_is_told() -> None:
    cluster = Scripted([CPUS], kills=frozenset({3}))
    results = {result.item: result for result in dispatch(cluster, range(5))}
    assert results[3].died and results[3].deaths == 2
    assert [item for item, _ in cluster.submitted].count(3) == 2
    assert not any(results[item].died for item in (0, 1, 2, 4))


def test_who_divides_decides_how_often_an_item_is_tried() -> None:
    cluster, asked = Scripted([CPUS], kills=frozenset({3, 4})), []

    def divide(item: int) -> list[int]:
        asked.append(item)
        return [4, 5] if item == 3 else [4] if asked.count(4) < 3 else []

    results = {result.item: result for result in dispatch(cluster, [3], divide=divide)}
    assert sorted(results) == [4, 5] and results[5].value == 10
    assert asked == [3, 4, 4, 4] and results[4].deaths == 4


def test_a_worker_that_cannot_run_the_task_ends_the_run_before_it_fails_every_item() -> None:
    cluster = Scripted([CPUS])
    results = dispatch(cluster, [1, 1313, *range(20, 40)])
    with pytest.raises(EnvironmentFault, match="ImportError: no such task there") as caught:
        list(results)
    assert "the same version" in str(caught.value) and len(cluster.submitted) < 6


def test_gpus_that_come_later_get_everything_from_then_on() -> None:
    cluster = Scripted([CPUS, CPUS, CPUS, GPU])
    told: list[bool] = []

    def items(on_gpu: Callable[[], bool]) -> Iterator[int]:
        for number in range(20):
            told.append(on_gpu())
            yield number

    assert len(list(dispatch(cluster, items, use_gpus=True))) == 20
    where = [on_gpu for _, on_gpu in cluster.submitted]
    assert not where[0] and where[-1] and where == sorted(where) == told
    plain = Scripted([GPU])
    list(dispatch(plain, range(3)))
    assert not any(on_gpu for _, on_gpu in plain.submitted)


@pytest.mark.parametrize(
    ("looks", "use_gpus", "words"),
    [
        ([NOBODY], False, "no worker for 0.2 s"),
        ([GPU, CPUS], True, "no worker that offers a GPU for 0.2 s"),
        ([Workers(0, 0, paused=2)], False, r"with memory left \(2 wait for some; .* for 0.2 s"),
    ],
    ids=["nobody", "no GPU beside CPUs", "nobody with memory"],
)
def test_who_waits_for_workers_in_vain_is_warned_once_and_at_last_told(
    looks: list[Workers], use_gpus: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(Scripted):
        def submit(self, item: int, *, on_gpu: bool, ended: Callable[[Any], None]) -> Any:
            return item

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(EnvironmentFault, match=words) as caught,
    ):
        list(dispatch(Silent(looks), range(3), use_gpus=use_gpus))
    assert "run the same command again" in str(caught.value)
    assert ("--device cpu" in str(caught.value)) == use_gpus
    assert len(caplog.records) == 1 and "still waiting" in caplog.text


def test_a_worker_that_comes_in_time_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABANDONED_S", 60.0)

    class Slow(Scripted):
        """Nobody for a while; then what was handed out meanwhile ends."""

        def __init__(self) -> None:
            super().__init__([NOBODY] * 40 + [CPUS])
            self._held: list[Callable[[], None]] = []

        def submit(self, item: int, *, on_gpu: bool, ended: Callable[[Any], None]) -> Any:
            self.submitted.append((item, on_gpu))
            handle = (len(self.submitted), item)
            self._held.append(lambda: ended(handle))
            return handle

        def workers(self) -> Workers:
            found = super().workers()
            while found.threads and self._held:
                self._held.pop()()
            return found

    assert sorted(result.value for result in dispatch(Slow(), range(3))) == [0, 2, 4]
