"""`probe` in another process: a file that crashes or hangs libav there costs that file alone.

The process is kept for the next files: starting one takes longer than looking at most of them.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from extractors.media.info import MediaInfo
from extractors.media.limits import MAX_PIXELS, PIXEL_BYTES
from extractors.media.probe_child import READY, info_from_json
from extractors.media.process import child_environment, limit_memory
from pipeline.core.errors import EnvironmentFault, MediaError

CHILD = ("-P", "-m", "extractors.media.probe_child")  # -P: nothing from the current folder
TIMEOUT_S = 150.0  # opening may take 60 s, reading a file of 256 MB to its end as long
FILES_EACH = 1000  # then another process takes over: what libav leaks goes with the old one
MEMORY = (1 << 30) + 4 * PIXEL_BYTES * MAX_PIXELS  # a few of the largest frames that are accepted

_idle: list[_Prober] = []
_guard = threading.Lock()


def probe_apart(path: str | os.PathLike[str]) -> MediaInfo:
    """What `extractors.media.probe.probe` says of a file, asked in another process.

    Raises:
        MediaError: As `probe`; or the process died or hung over the file, twice.
        EnvironmentFault: The process cannot be started, or ends by itself before it begins.
    """
    words = ""
    for _ in range(2):  # the first one may have been ended by somebody else
        prober = _take()
        try:
            answer = prober.ask(str(Path(path).absolute()))
        except _ProbeDiedError as error:
            words = str(error)
            continue
        _give_back(prober)
        if "error" in answer:
            reason, hint = answer["error"]
            raise MediaError(path, reason, hint=hint)
        return replace(info_from_json(answer["info"]), path=Path(path))
    raise MediaError(
        path,
        f"looking at it ended a process {words}",
        hint="convert the file with another program",
    )


class _ProbeDiedError(Exception):
    """The process gave no answer."""


class _Prober:
    """One process that looks at files, one after the other.

    Attributes:
        asked: Files that it has been asked about.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._ready = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, *CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
        except OSError as error:
            raise EnvironmentFault(f"a process to look at files does not start: {error}") from error
        limit_memory(self._process.pid, MEMORY)

    def ask(self, path: str) -> dict[str, Any]:
        """The answer on a file."""
        self.asked += 1
        hung = threading.Event()
        timer = threading.Timer(TIMEOUT_S, self._end, [hung])
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(OSError):  # it is gone: there will be no answer either
                stdin = cast(IO[bytes], self._process.stdin)
                stdin.write(json.dumps(path).encode() + b"\n")
                stdin.flush()
            answers = cast(IO[bytes], self._process.stdout)
            self._ready = self._ready or answers.readline() == READY
            line = answers.readline()
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            self.close()
            raise self._death(hung=hung.is_set())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self, *, hung: bool) -> Exception:
        status = self._process.returncode
        if not self._ready and not hung and status > 0:  # no signal: Python could not load it
            return EnvironmentFault(
                f"a process to look at files ends before it begins, with status {status}",
                hint="see what this says: python -m extractors.media.probe_child",
            )
        return _ProbeDiedError("that hung" if hung else f"with status {status}")

    def close(self) -> None:
        """End the process and free what it held."""
        with contextlib.suppress(OSError):
            cast(IO[bytes], self._process.stdin).close()
        cast(IO[bytes], self._process.stdout).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._process.kill()
        self._process.wait()

    def _end(self, hung: threading.Event) -> None:
        hung.set()
        self._process.kill()


def _take() -> _Prober:
    with _guard:
        if _idle:
            return _idle.pop()
    return _Prober()


def _give_back(prober: _Prober) -> None:
    if prober.asked >= FILES_EACH:
        prober.close()
        return
    with _guard:
        _idle.append(prober)


@atexit.register
def _close_all() -> None:
    with _guard:
        while _idle:
            _idle.pop().close()
