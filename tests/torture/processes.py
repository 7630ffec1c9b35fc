"""Extraction as its users run it: separate processes, a scheduler, workers with their own scratch.

Everything listens on loopback only and ends with its context.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from pipeline.core.ledger import Ledger

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
SCRIPT = """
import sys
from fixtures.backbones import SLOW_TOY
from pipeline.core.errors import PipelineError
from workflows.extraction.run import extract
if __name__ == "__main__":
    try:
        report = extract([sys.argv[1]], sys.argv[2], backbone=SLOW_TOY, scheduler=sys.argv[3],
                         workers=int(sys.argv[4]) or None, at_once=int(sys.argv[5]) or None)
    except KeyboardInterrupt:
        sys.exit(130)
    except PipelineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(report.exit_code)
"""


def environment(delay: float) -> dict[str, str]:
    """Of a process that finds the toys; ``delay`` is what a batch of the slow one takes."""
    return {**os.environ, "PYTHONPATH": PATHS, "TOY_DELAY_S": str(delay), "OMP_NUM_THREADS": "1"}


def start_extract(
    videos: Path,
    out: Path,
    *,
    scheduler: str = "serial",
    delay: float = 0.05,
    workers: int = 0,
    at_once: int = 0,
) -> subprocess.Popen[str]:
    """One job; its process leads a group of its own."""
    script = out.parent / "extract_slow_toy.py"
    script.write_text(SCRIPT)
    words = [str(videos), str(out), scheduler, str(workers), str(at_once)]
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(delay),
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a job and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Cluster:
    """``dask scheduler`` and ``dask worker`` processes, as docs/cluster.md starts them.

    Args:
        folder: For logs and for the scratch folder of each worker.
        workers: Number of workers.
        delay: See `environment`.
        offer: Resources that each worker offers, as on the command line.
        options: Further words for each worker's command line.
        threads: Of each worker; the documentation advises one.
        dashboard: Whether the scheduler has one.
        tls: Words for every command line that name certificates; the address is one of ``tls://``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        delay: float = 0.05,
        offer: str = "",
        options: Sequence[str] = (),
        threads: int = 1,
        dashboard: bool = False,
        tls: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._delay = delay
        self.offer = offer  # of those that are added from now on
        self._options = options
        self._threads = threads
        self._tls = tls
        self._dashboard = (
            ["--dashboard-address", "127.0.0.1:0"] if dashboard else ["--no-dashboard"]
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"{'tls' if tls else 'tcp'}://127.0.0.1:{probe.getsockname()[1]}"
        self.scheduler = self._start_scheduler()
        self.workers = [self.add_worker() for _ in range(workers)]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            _kill_tree(process.pid)
            process.wait()

    def _start_scheduler(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        words = ["scheduler", "--host", "127.0.0.1", "--port", port, *self._dashboard]
        words += ["--protocol", "tls", *self._tls] if self._tls else []
        process = self._start(words)
        wait_for(lambda: _listens(int(port)))
        return process

    def add_worker(
        self, *, folder: Path = ROOT, others: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one more worker; its nanny starts it again when it dies.

        Args:
            folder: In which it runs.
            others: Environment variables that differ from those of the others.
        """
        scratch = self.folder / f"scratch{len(self._processes)}"
        words = ["worker", self.address, "--nthreads", str(self._threads), "--no-dashboard"]
        words += ["--memory-limit", "0"]
        words += ["--local-directory", str(scratch)]
        words += ["--resources", self.offer] if self.offer else []
        words += [*self._tls, *self._options]
        return self._start(words, folder=folder, others=others or {})

    def kill_a_worker(self, number: int) -> None:
        """SIGKILL for the process that works, under its nanny."""
        nanny = self.workers[number % len(self.workers)]
        for child in psutil.Process(nanny.pid).children(recursive=True):
            child.kill()

    def end_a_worker(self, number: int) -> None:
        """SIGKILL for a worker and its nanny: it does not come again."""
        _kill_tree(self.workers[number].pid)
        self.workers[number].wait()

    def kill_the_scheduler(self) -> None:
        """SIGKILL."""
        _kill_tree(self.scheduler.pid)
        self.scheduler.wait()

    def restart_scheduler(self) -> None:
        """SIGKILL, then a new one at the same address."""
        self.kill_the_scheduler()
        self.scheduler = self._start_scheduler()

    def _start(
        self, words: Sequence[str], *, folder: Path = ROOT, others: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        log = (self.folder / f"dask{len(self._processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**environment(self._delay), **(others or {})},
        )
        self._processes.append(process)
        return process


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _kill_tree(pid: int) -> None:
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for each in [process, *process.children(recursive=True)]:  # a nanny would start another
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue


def wait_for(condition: object, *, seconds: float = 60.0) -> None:
    """Until a function says yes."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def ledger_count(out: Path, outcome: str) -> int:
    """Number of rows of an outcome in the ledger of a store, read while others write."""
    return sum(row.outcome == outcome for row in Ledger(out / "ledger").rows())
