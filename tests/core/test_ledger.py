"""The ledger: many writers, one order, files that are joined under the eyes of readers."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.core import ledger as ledger_module
from pipeline.core import ledger_merge, locks
from pipeline.core.errors import StoreError
from pipeline.core.ledger import Ledger, LedgerRow
from pipeline.core.ledger_row import parse_row
from pipeline.core.locks import LockFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger", locks=LockFile(tmp_path / "locks"))


def write(ledger: Ledger, name: str, rows: list[LedgerRow], *, end: str = "\n") -> Path:
    """A file of another writer, which has ended."""
    ledger.directory.mkdir(exist_ok=True)
    path = ledger.directory / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(asdict(row)) for row in rows) + end)
    return path


def row(id: str, time: float, outcome: str = "done") -> LedgerRow:
    return LedgerRow(id, outcome, time=time)  # type: ignore[arg-type]


def ids(ledger: Ledger) -> list[str]:
    return [row.id for row in ledger.rows()]


def scattered(writers: int, rows: int, seed: int = 0) -> dict[str, list[LedgerRow]]:
    """Rows of writers that work at once, some of which set their clocks back now and then."""
    chance = random.Random(seed)
    found: dict[str, list[LedgerRow]] = {}
    for writer in range(writers):
        clock, mine = chance.uniform(0, rows / 2), []
        for number in range(rows):
            clock += chance.choice([0.0, 0.5, 1.0, 1.5])
            if writer % 5 == 0 and chance.random() < 0.02:
                clock -= 40.0
            mine.append(row(f"{writer}/{number}", clock))
        found[f"host{writer:03}-7-{seed:08x}"] = mine
    return found


def test_what_is_appended_is_read(ledger: Ledger) -> None:
    assert ids(ledger) == []
    written = LedgerRow("ä\n\u2028", "failed", "why", "who", 1.5, details={"n": [1, None]})
    ledger.append(written)
    other = Ledger(ledger.directory)
    other.append(LedgerRow("b", "started"))
    assert list(ledger.rows()) == list(other.rows())
    assert next(ledger.rows()) == written
    assert len(list(ledger.directory.glob("*.jsonl"))) == 2


def test_rows_of_writers_whose_clocks_run_come_in_the_order_of_time(ledger: Ledger) -> None:
    names = {name: rows for name, rows in scattered(40, 50, 3).items() if int(name[4:7]) % 5}
    for name, rows in names.items():
        write(ledger, name, rows)
    times = [found.time for found in ledger.rows()]
    assert times == sorted(row.time for rows in names.values() for row in rows)


def test_a_clock_that_is_set_back_does_not_turn_its_writers_rows_around(ledger: Ledger) -> None:
    write(ledger, "a", [row("a1", 10), row("a2", 50), row("a3", 20), row("a4", 60)])
    write(ledger, "b", [row("b1", 15), row("b2", 30), row("b3", 55)])
    assert ids(ledger) == ["a1", "b1", "b2", "a2", "a3", "b3", "a4"]


def test_rows_of_one_item_come_as_they_stand_among_all_others(ledger: Ledger) -> None:
    """Though the others are hardly looked at: what their writers' clocks said counts."""
    names = ('a "b"', "ä\n", "time", '"time": 9e9,')
    chance = random.Random(1)
    for writer, rows in scattered(20, 50, 1).items():
        write(
            ledger,
            writer,
            [
                LedgerRow(chance.choice(names), "failed", chance.choice(names), time=each.time)
                for each in rows
            ],
        )
    everything = list(ledger.rows())
    assert {each.id for each in everything} == set(names)
    for name in names:
        assert list(ledger.rows(only=name)) == [each for each in everything if each.id == name]
    assert list(ledger.rows(only="nobody")) == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "torn", "outcome": "do',
        b"\0" * 5000,
        b'{"id": "x", "outcome": "done", "time": NaN}',
        b'{"id": "x", "outcome": "done", "time": "noon"}',
        b'{"id": "x", "outcome": "done", "time": ' + b"9" * 400 + b"}",
        b'{"id": 7, "outcome": "done"}',
        b'{"id": "x", "outcome": "done", "rank": 1}',
        b"[" * 100_000,
        b'"x"',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_line_that_is_no_row_is_left_out_and_hides_no_other(ledger: Ledger, line: bytes) -> None:
    assert parse_row(line) is None
    sound = json.dumps(asdict(row("a", 1))).encode()
    for name, data in (("first", line + b"\n" + sound), ("last", sound + b"\n" + line)):
        write(ledger, name, []).write_bytes(data)
    assert len(ids(ledger)) == 1  # the same line in two files is one row


def test_a_row_after_one_that_a_full_disk_tore_is_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append(row("a", 1))
    real, torn = os.fsync, []

    def full(descriptor: int) -> None:
        if not torn:
            (path,) = ledger.directory.glob("*.jsonl")
            os.truncate(path, path.stat().st_size - 9)
            torn.append(path)
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.append(row("b", 2))
    ledger.append(row("c", 3))
    assert ids(ledger) == ["a", "c"]


def test_threads_share_a_file_and_spoil_no_line(ledger: Ledger) -> None:
    def write(name: str) -> None:
        for number in range(20):
            ledger.append(LedgerRow(f"{name}{number}", "done"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(ledger.directory.iterdir())) == 1
    assert sorted(row.id for row in ledger.rows()) == sorted(
        f"{name}{number}" for name in "abcd" for number in range(20)
    )


def test_a_process_that_forks_gets_a_file_of_its_own(ledger: Ledger) -> None:
    ledger.append(row("a", 1))
    child = multiprocessing.get_context("fork").Process(target=ledger.append, args=(row("b", 2),))
    child.start()
    child.join()
    assert child.exitcode == 0 and len(list(ledger.directory.glob("*.jsonl"))) == 2


def test_memory_and_handles_do_not_grow_with_the_rows(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred writers at once, whose files hold ten times what is kept of them."""
    monkeypatch.setattr(ledger_merge, "BUFFER_BYTES", 1)
    monkeypatch.setattr(ledger_merge, "LEAST_BLOCK", 1024)
    for name, rows in scattered(100, 100).items():
        write(ledger, name, rows)
    handles, count = [], 0
    tracemalloc.start()
    for count, _ in enumerate(ledger.rows(), 1):
        if count % 500 == 0:
            handles.append(len(list(Path("/proc/self/fd").iterdir())))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert max(handles) - min(handles) <= 1
    assert peak < 100 * (2 * 1024 + 4000)


def test_only_the_asked_for_is_held_of_the_newest_rows(ledger: Ledger) -> None:
    write(ledger, "a", [row("x", 1, "failed"), row("y", 2, "failed"), row("z", 3, "started")])
    write(ledger, "b", [row("x", 4, "done"), row("w", 5, "done")])
    assert {id: found.outcome for id, found in ledger.latest().items()} == {
        "x": "done",
        "y": "failed",
        "z": "started",
        "w": "done",
    }
    assert ledger.latest("failed").keys() == {"y"}
    assert ledger.latest("failed", "started").keys() == {"y", "z"}


# --- joining --------------------------------------------------------------------------------------


def fill(ledger: Ledger, *, writers: int = 20, rows: int = 30, seed: int = 0) -> list[LedgerRow]:
    for name, written in scattered(writers, rows, seed).items():
        write(ledger, name, written)
    return list(ledger.rows())


def test_joined_files_hold_the_same_rows_in_the_same_order(ledger: Ledger) -> None:
    before = fill(ledger)
    assert len(before) == 600
    assert ledger.join() == 20
    assert len(list(ledger.directory.glob("*.jsonl"))) == 1
    assert list(ledger.rows()) == before
    more = fill(ledger, writers=30, seed=1)
    assert len(more) == 600 + 900
    assert ledger.join() == 31
    assert list(ledger.rows()) == more


def test_few_files_are_left_alone(ledger: Ledger) -> None:
    fill(ledger, writers=15)
    assert ledger.join() == 0
    assert ledger.join(min_files=15) == 15
    assert ledger.join(min_files=1) == 0


def test_rows_are_copied_as_often_as_the_logarithm_of_the_joins(ledger: Ledger) -> None:
    copied, largest = 0, 0
    for batch in range(24):
        fill(ledger, writers=16, rows=5, seed=batch)
        before = set(ledger.directory.glob("*.jsonl"))
        assert ledger.join() >= 16
        after = set(ledger.directory.glob("*.jsonl"))
        (fresh,) = after - before
        copied += fresh.stat().st_size
        largest = max(largest, len(after))
    total = sum(path.stat().st_size for path in ledger.directory.glob("*.jsonl"))
    assert largest <= 6 and copied < 6 * total
    assert len(ids(ledger)) == 24 * 16 * 5


@pytest.mark.parametrize("after", [0, 1, 100, 599])
def test_a_reader_on_its_way_sees_each_row_once_though_files_are_joined(
    ledger: Ledger, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_merge, "LARGEST_BLOCK", 700)
    expected = fill(ledger)
    reader = ledger.rows()
    found = [next(reader) for _ in range(after)]
    assert Ledger(ledger.directory, locks=LockFile(ledger.directory.parent / "locks")).join() == 20
    found += reader
    assert found == expected


def test_a_reader_is_overtaken_again_and_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_merge, "LARGEST_BLOCK", 700)
    expected, found, rejoined = fill(ledger), [], 0
    for each in ledger.rows():
        found.append(each)
        if len(found) in range(100, 600, 100):
            for writer in range(16):  # as many bytes as there are, so that all are joined again
                late = [row(f"{len(found)} {writer} {n}", 1e6 + len(found)) for n in range(40)]
                write(ledger, f"late{len(found)}{writer}-7-00000000", late)
            ledger.join()
            rejoined += len(list(ledger.directory.glob("*.jsonl"))) == 1
    assert rejoined >= 2
    assert found[:600] == expected
    assert len({each.id for each in found}) == len(found)  # of those that came late, some


class KilledError(Exception):
    """Stands for SIGKILL at a step."""


@pytest.mark.parametrize("step", range(1, 40))
def test_killed_at_any_step_a_join_loses_no_row_and_doubles_none(
    ledger: Ledger, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(ledger, writers=16, rows=10)
    count = 0

    def deadly(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                raise KilledError
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", deadly(os.fsync))
        patch.setattr(Path, "replace", deadly(Path.replace))
        patch.setattr(Path, "unlink", deadly(Path.unlink))
        try:
            ledger.join()
        except KilledError:
            pass
        else:
            assert count < step and step > 16  # all files were removed, one by one
    assert list(ledger.rows()) == expected
    fill(ledger, writers=20, rows=10, seed=9)
    expected = list(ledger.rows())
    ledger.join()
    assert len(list(ledger.directory.glob("*.jsonl"))) == 1
    assert list(ledger.rows()) == expected


CHILD = """
import sys, time
from pathlib import Path
from pipeline.core.ledger import Ledger, LedgerRow
from pipeline.core.locks import LockFile
folder = Path(sys.argv[1])
ledger = Ledger(folder / "ledger", locks=LockFile(folder / "locks"))
ledger.append(LedgerRow("of a living process", "started"))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_writer_that_lives_keeps_its_file_until_it_dies(ledger: Ledger) -> None:
    command = [sys.executable, "-c", CHILD, str(ledger.directory.parent)]
    ledger.append(row("of this process", 1))
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        fill(ledger)
        for path in ledger.directory.glob("*.jsonl"):
            os.utime(path, (0, 0))  # age says nothing
        assert ledger.join() == 20
        assert Ledger(ledger.directory, locks=ledger._locks).join(min_files=2) == 0
        child.send_signal(signal.SIGKILL)
        child.wait()
        fill(ledger, writers=1, rows=1, seed=1)
        assert ledger.join(min_files=2) == 2
    assert len(ids(ledger)) == 600 + 2 + 1
    assert len(list(ledger.directory.glob("*.jsonl"))) == 3  # two joined ones and our own


def test_without_locks_that_exclude_nothing_is_joined(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger)
    assert Ledger(ledger.directory).join() == 0
    monkeypatch.setattr(locks, "fcntl", None)
    assert ledger.join() == 0
    assert len(list(ledger.directory.glob("*.jsonl"))) == 20


def test_a_file_that_grew_though_its_lock_was_free_is_kept(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mount whose locks do not reach other hosts."""
    fill(ledger)
    real = ledger_module.write_text

    def late(path: Path, text: str) -> None:
        real(path, text)
        with (ledger.directory / "host003-7-00000000.jsonl").open("a") as handle:
            handle.write(json.dumps(asdict(row("late", 1e6))) + "\n")

    monkeypatch.setattr(ledger_module, "write_text", late)
    assert ledger.join() == 20
    assert len(ids(ledger)) == 601 and ids(ledger)[-1] == "late"


def test_a_file_that_is_listed_but_gone_for_good_is_an_error(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = [write(ledger, "a", [row("x", 1)])]
    monkeypatch.setattr(ledger_module, "RELIST_S", 0.0)
    monkeypatch.setattr(ledger, "_files", lambda: [path])
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is listed but not there"):
        list(ledger.rows())


def _append(folder: Path, first: int, count: int) -> None:
    for start in range(first, first + count, 5):  # a writer of five rows ends, the next begins
        mine = Ledger(folder / "ledger", locks=LockFile(folder / "locks"))
        for number in range(start, start + 5):
            mine.append(LedgerRow(f"v{number}", "done"))


def _short_lived(folder: Path, first: int, count: int) -> None:
    context = multiprocessing.get_context("fork")
    for start in range(first, first + count, 10):
        child = context.Process(target=_append, args=(folder, start, 10))
        child.start()
        child.join()


def test_readers_see_all_that_was_there_while_processes_write_and_join(ledger: Ledger) -> None:
    expected = {found.id for found in fill(ledger)}
    folder, context = ledger.directory.parent, multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_short_lived, args=(folder, 1000 * number, 100))
        for number in range(2)
    ]
    for writer in writers:
        writer.start()
    known, joined, end = set(expected), 0, time.monotonic() + 60
    while any(writer.is_alive() for writer in writers):
        assert time.monotonic() < end
        reader = ledger.rows()
        found = [next(reader).id]
        joined += ledger.join(min_files=2)
        found += [each.id for each in reader]
        assert len(found) == len(set(found))
        assert known <= set(found)
        known = set(found)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert joined > 20
    assert len(ids(ledger)) == 600 + 200 == len(set(ids(ledger)))


def test_recent_rows_are_those_of_files_as_they_grew(ledger: Ledger) -> None:
    write(ledger, "before", [row("old", 1.0, "started")])
    grown = write(ledger, "grown", [row("a", 2.0, "started")])
    since = ledger.ends()
    with grown.open("a") as handle:
        handle.write(json.dumps(asdict(row("b", 3.0, "started"))) + "\n")
    write(ledger, "later", [row("c", 4.0, "started"), row("b", 5.0, "skipped")])
    found = {id: entry.outcome for id, entry in ledger.recent(since).items()}
    assert found == {"b": "skipped", "c": "started"}


def test_recent_rows_of_a_long_ledger_cost_little(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for writer in range(3):
        write(ledger, f"w{writer}", [row(f"{writer}/{n}", float(n)) for n in range(5_000)])
    parsed = []

    def counting(line: bytes) -> LedgerRow | None:
        parsed.append(line)
        return parse_row(line)

    monkeypatch.setattr(ledger_merge, "parse_row", counting)
    found = ledger.recent({})
    assert {f"{writer}/4999" for writer in range(3)} <= set(found)
    assert len(parsed) < 3 * 1_000
    assert sum(map(len, parsed)) <= 3 * ledger_module.TAIL_BYTES


@pytest.mark.parametrize("name", ["x.jsonl", "generation"])
@pytest.mark.parametrize("what", ["link", "pipe", "folder", "dangling"])
def test_what_is_no_plain_file_is_refused_and_not_opened(
    ledger: Ledger, tmp_path: Path, name: str, what: str
) -> None:
    write(ledger, "honest", [row("a", 1.0)])
    place, outside = ledger.directory / name, tmp_path / "outside.jsonl"
    outside.write_text(json.dumps(asdict(row("secret", 1.0))) + "\n")
    if what == "pipe":
        os.mkfifo(place)  # to read it would wait for ever
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to(outside if what == "link" else tmp_path / "nowhere")
    with pytest.raises(StoreError, match="a ledger holds plain files only") as caught:
        ids(ledger)
    assert str(place) in caught.value.message
    for ask in (ledger.ends, ledger.join, lambda: ledger.recent({})):
        with pytest.raises(StoreError):
            ask()
    assert outside.exists()


def test_a_line_without_end_is_not_held_in_memory(ledger: Ledger) -> None:
    path = write(ledger, "stranger", [row("a", 1.0)])
    with path.open("ab") as handle:
        for _ in range(64):
            handle.write(b"x" * (1 << 20))
        handle.write(b"\n" + json.dumps(asdict(row("b", 2.0))).encode() + b"\n")
    tracemalloc.start()
    assert ids(ledger) == ["a", "b"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "change",
    [{"details": "text"}, {"details": None}, {"outcome": "won"}, {"reason": {}}, {"reader": 3}],
)
def test_rows_whose_values_are_of_other_kinds_are_damaged(change: dict[str, object]) -> None:
    plain = asdict(row("a", 1.0)) | change
    assert parse_row(json.dumps(plain).encode()) is None
