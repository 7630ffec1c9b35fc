"""What a GPU's driver says of how busy it is: a second opinion, from outside of this process."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from types import TracebackType

import torch

PROGRAM = "nvidia-smi"
EVERY_MS = 200


class Utilisation:
    """Asks the driver five times a second, in a ``with`` statement.

    The driver's figure is the share of a moment, of up to a second, in which a kernel of anybody
    ran.

    Args:
        device: The GPU; None asks nobody.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._device = device
        self._samples: list[tuple[float, float]] = []  # moment, share
        self._program: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Utilisation:
        if self._device is None:
            return self
        number = str(torch.cuda.get_device_properties(self._device).uuid)
        command = [PROGRAM, f"--id=GPU-{number.removeprefix('GPU-')}", f"--loop-ms={EVERY_MS}"]
        command += ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError):
            self._program = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._program is not None and self._reader is not None:
            self._program.terminate()
            self._program.wait()
            self._reader.join()

    def mean(self, since: float, until: float) -> float | None:
        """Mean of what the driver said between two moments of `time.perf_counter`.

        Returns:
            The share; None where it said nothing.
        """
        shares = [share for moment, share in list(self._samples) if since <= moment <= until]
        return sum(shares) / len(shares) if shares else None

    def _read(self) -> None:
        assert self._program is not None
        assert self._program.stdout is not None
        for line in self._program.stdout:
            if line.strip().isdigit():  # other lines say what is not known
                self._samples.append((time.perf_counter(), int(line) / 100))
