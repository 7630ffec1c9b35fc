"""Locks between processes, where the file that they share is taken away under them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.core.locks import LockFile, fcntl

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from pipeline.core.locks import LockFile
with LockFile(sys.argv[1]).hold(sys.argv[2], wait=False) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(fcntl is None, reason="this system has no such locks")


@contextmanager
def other_process(path: Path, name: str) -> Iterator[bool]:
    """Whether another process got a lock, which it holds for the block."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with child:
        assert child.stdout is not None and child.stdin is not None
        answer = child.stdout.readline().strip()
        assert answer in ("True", "False")
        yield answer == "True"
        child.stdin.close()


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    other.replace(path)


@pytest.fixture(params=[remove, replace])
def take_away(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """A way in which a file stops being the one that it was."""
    chosen: Callable[[Path], None] = request.param
    return chosen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file that this process has used already."""
    path = tmp_path / "locks"
    with LockFile(path).hold("earlier", wait=False) as mine:
        assert mine
    return path


def test_a_lock_that_another_process_holds_is_refused_and_free_after_it(path: Path) -> None:
    with other_process(path, "a") as theirs, LockFile(path).hold("a", wait=False) as mine:
        assert theirs and not mine
    with LockFile(path).hold("a", wait=False) as mine:
        assert mine


def test_a_new_file_in_the_place_of_the_old_one_is_the_one_that_counts(
    path: Path, take_away: Callable[[Path], None]
) -> None:
    take_away(path)
    with other_process(path, "a") as theirs, LockFile(path).hold("a", wait=False) as mine:
        assert theirs and not mine
    with (
        LockFile(path).hold("a", wait=False) as mine,
        other_process(path, "a") as theirs,
        other_process(path, "b") as free,
    ):
        assert mine and not theirs and free


def test_what_was_held_in_the_old_file_is_held_in_the_new_one(
    path: Path, take_away: Callable[[Path], None]
) -> None:
    lock = LockFile(path)
    assert lock.keep("kept")
    with lock.hold("held", wait=False) as mine:
        assert mine
        take_away(path)
        with lock.hold("another", wait=False):  # the next look at the file
            pass
        for name in ("kept", "held"):
            with other_process(path, name) as theirs:
                assert not theirs, name
        with other_process(path, "another") as theirs:
            assert theirs
    with other_process(path, "held") as theirs:
        assert theirs


def test_a_lock_that_somebody_took_in_the_new_file_first_stays_theirs(path: Path) -> None:
    lock = LockFile(path)
    with ExitStack() as stack:
        assert stack.enter_context(lock.hold("a", wait=False))
        path.unlink()
        assert stack.enter_context(other_process(path, "a"))
        with lock.hold("b", wait=False) as mine:
            assert mine
        with other_process(path, "a") as theirs:
            assert not theirs


def test_giving_a_lock_back_makes_no_file(path: Path) -> None:
    """Whoever removes the folder at that moment would find it filled again."""
    with LockFile(path).hold("a", wait=False) as mine:
        assert mine
        path.unlink()
    assert not path.exists()


def test_whether_another_process_holds_a_lock_is_told_without_taking_it(path: Path) -> None:
    lock = LockFile(path)
    with other_process(path, "a"):
        assert lock.is_held_elsewhere("a") and not lock.is_held_elsewhere("b")
    assert not lock.is_held_elsewhere("a")
    with lock.hold("a", wait=False):
        assert not lock.is_held_elsewhere("a")
        with other_process(path, "a") as theirs:  # it is ours still
            assert not theirs
    with other_process(path, "a") as theirs:
        assert theirs


ASKER = """
import sys
from pipeline.core.locks import LockFile
give_back = LockFile._free_byte
def slowly(self, name):
    print("asking", flush=True)
    sys.stdin.readline()
    give_back(self, name)
LockFile._free_byte = slowly
print(LockFile(sys.argv[1]).is_held(sys.argv[2]), flush=True)
"""


def test_two_that_ask_at_the_same_moment_do_not_take_each_other_for_a_holder(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ASKER, str(path), "run 3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with child:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == "asking\n"
        assert not LockFile(path).is_held("run 3")
        assert not LockFile(path).is_held_elsewhere("run 3")
        answer, _ = child.communicate("\n")
    assert answer == "False\n"


def test_a_lock_is_held_whoever_holds_it(path: Path) -> None:
    locks = LockFile(path)
    with locks.hold("ours", wait=False):
        assert locks.is_held("ours") and not locks.is_held_elsewhere("ours")
    with other_process(path, "theirs") as granted:
        assert granted
        assert locks.is_held("theirs") and locks.is_held_elsewhere("theirs")
    assert not locks.is_held("ours") and not locks.is_held("theirs")
