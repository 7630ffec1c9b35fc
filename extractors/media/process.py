"""A child process whose output is read under a watchdog.

A decoder that hangs must cost its caller a bounded wait, not the job: `WatchedProcess` kills a
child that gives no byte for ``stall_timeout`` seconds while somebody waits for one. Time in
which the caller is busy elsewhere does not count.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import IO, cast

from extractors.interruption import interruption

STDERR_LIMIT = 8192  # characters of the child's complaints that are kept, the newest ones
LISTEN_BYTES = 1 << 16
PIPE_BYTES = 1 << 20  # a megabyte in flight spares thousands of context switches a second
EXIT_PATIENCE_S = 10.0
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class StalledError(Exception):
    """The child gave no byte for longer than it was allowed to."""


class WatchedProcess:
    """Run ``command`` and read its standard output.

    The child is killed, too, when the thread that started it is asked to leave
    (`extractors.interruption`): it may be waiting for the child.

    Args:
        command: Program and arguments; no shell is involved.
        stall_timeout: Seconds a read may wait for a byte before the child is killed.
        environment: Environment of the child; None inherits.
        memory: Bytes of data that the child may hold, where the system can limit that (Linux);
            beyond it, its allocations fail. None for no limit.
        on_line: Called with each line of the child's standard error, in a thread of its own; what
            it gives back is kept for `last_words`. None keeps all.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stall_timeout: float,
        environment: Mapping[str, str] | None = None,
        memory: int | None = None,
        on_line: Callable[[str], str] | None = None,
    ) -> None:
        self._timeout = stall_timeout
        self._waiting_since: float | None = None
        self._stalled = False
        self._killed = False
        self._interruption = interruption()
        self._closed = threading.Event()
        self._stderr = ""
        self._on_line = on_line or str
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=None if environment is None else dict(environment),
        )
        if memory is not None:
            limit_memory(self._process.pid, memory)
        self._stdout = cast(FileIO, self._process.stdout)
        _widen(self._stdout)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """Whether this side ended the child."""
        return self._killed

    @property
    def last_words(self) -> str:
        """The last line that the child wrote to its standard error, else its exit status."""
        lines = self._stderr.strip().splitlines()
        return lines[-1][-300:] if lines else f"exit status {self._process.poll()}"

    def fill(self, buffer: memoryview) -> int:
        """Read until ``buffer`` is full or the output is over.

        Returns:
            Number of bytes read; less than ``len(buffer)`` only at the end of the output.

        Raises:
            StalledError: The watchdog had to kill the child.
        """
        done = 0
        while done < len(buffer):
            self._waiting_since = time.monotonic()
            try:
                count = self._stdout.readinto(buffer[done:])
            finally:
                self._waiting_since = None
            if not count:
                break
            done += count
        if self._stalled:
            raise StalledError(f"no output for {self._timeout:g} s")
        return done

    def wait(self) -> int:
        """Exit status, once the output has been read to its end; a child that lingers is killed."""
        try:
            status = self._process.wait(EXIT_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        self._listener.join(EXIT_PATIENCE_S)
        return status

    def kill(self) -> None:
        """Kill the child: a read that waits in another thread comes back at once."""
        self._killed = True
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Kill the child if it still runs and free what it held. May be called again.

        Only for the thread that reads: elsewhere `kill`, as the pipe's number could be given to
        another file between two reads.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self.kill()
        self._process.wait()
        self._listener.join()
        self._watchdog.join()
        self._stdout.close()
        cast(IO[bytes], self._process.stderr).close()

    def _listen(self) -> None:
        stderr = cast(FileIO, self._process.stderr)
        rest = b""
        while chunk := stderr.read(LISTEN_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            self._keep(lines)
            rest = rest[-STDERR_LIMIT:]
        self._keep([rest])

    def _keep(self, lines: list[bytes]) -> None:
        for line in lines:
            words = self._on_line(line.decode("utf-8", "replace"))
            if words:
                self._stderr = f"{self._stderr}\n{words}"[-STDERR_LIMIT:]

    def _watch(self) -> None:
        while not self._closed.wait(min(0.5, self._timeout / 4)):
            if self._interruption is not None and self._interruption.is_set():
                self.kill()
                return
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._timeout:
                self._stalled = True
                self.kill()
                return


def child_environment() -> dict[str, str]:
    """The environment in which a child finds this package, with one thread for its numbers."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def limit_memory(pid: int, limit: int) -> None:
    """Make allocations of a process fail beyond ``limit`` bytes of data.

    From outside, as code between fork and exec is not safe in a process with threads.
    """
    if sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(OSError):  # it has already ended, or holds a lower limit
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def _widen(pipe: FileIO) -> None:
    if sys.platform != "linux":
        return
    import fcntl

    with contextlib.suppress(OSError):  # above the user's limit: the default size serves too
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
