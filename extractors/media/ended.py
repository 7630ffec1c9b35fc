"""How an ffmpeg ended: what came of one that did not end by itself is short.

The system ends processes for lack of memory; SLURM and systemd ask all processes of a job to end,
children among them. Neither says anything of the file, whose result must not count. A crash of
ffmpeg does: what came before is kept, and the rest is missing.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

from extractors.interruption import POLL_S, check_interruption
from extractors.media.process import WatchedProcess
from pipeline.core.errors import DecoderEndedError, MediaError

# What ffmpeg says last when a signal asked it to leave. Its status, 255, is also that of a file
# which it was not permitted to open.
_FAREWELL = re.compile(r"^(?:\[info\] )?(Exiting normally, received signal \d+\.)\s*$")
FROM_OUTSIDE = {signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGKILL", None)])}
GRACE_S = 2.0  # whoever ends a whole job has this process ended a moment later


def farewell(line: str) -> str:
    """The line in which ffmpeg says that a signal asked it to leave; "" for any other."""
    found = _FAREWELL.match(line)
    return "" if found is None else found[1]


def crash_of(
    child: WatchedProcess, status: int, path: Path, *, noun: str, second: float
) -> MediaError | None:
    """The error of an ffmpeg that crashed; None where it did not.

    Args:
        child: The process, which has ended, and of whose lines those of `farewell` were kept.
        status: Its exit status.
        path: The file that it read.
        noun: What it read.
        second: Second up to which it got.

    Raises:
        DecoderEndedError: Somebody else ended it.
        KeyboardInterrupt: This thread was asked to leave, too.
    """
    asked = bool(farewell(child.last_words))
    if child.was_killed or (status >= 0 and not asked):
        return None
    if asked or -status in FROM_OUTSIDE:
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end:
            check_interruption()
            time.sleep(POLL_S)
        raise DecoderEndedError(
            f"{path}: the ffmpeg that read its {noun} was ended from outside at second "
            f"{second:.2f}",
            hint="extract it again; if the system ended it for lack of memory, run fewer at once",
        )
    return MediaError(
        path,
        f"ffmpeg crashed (signal {-status}) while decoding the {noun} after second {second:.2f}",
        hint="convert the file with another program",
    )
