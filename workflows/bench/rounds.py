"""Times of several pieces of work that are compared with each other, taken in rounds.

Machines that are shared change their speed by a third within minutes. Two pieces of work that were
timed one after the other differ by that too; within one round, some seconds apart, less. So each
round does every piece once, the next one in the opposite order; ratios are taken round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from workflows.bench.stopwatch import cpu_seconds


@dataclass(frozen=True, slots=True)
class Timing:
    """One part of the work.

    Attributes:
        part: What was measured.
        walls: Seconds on the clock, of each round.
        cpus: Seconds of all cores, finished child processes included, of each round.
        media: Seconds of video that went through in one.
    """

    part: str
    walls: tuple[float, ...]
    cpus: tuple[float, ...]
    media: float

    @property
    def wall(self) -> float:
        """Clock seconds of the median round."""
        return median(self.walls)

    @property
    def cpu(self) -> float:
        """Core seconds of the median round."""
        return median(self.cpus)

    @property
    def wall_per_second(self) -> float:
        """Clock seconds per second of video."""
        return self.wall / self.media

    @property
    def cpu_per_second(self) -> float:
        """Core seconds per second of video."""
        return self.cpu / self.media


def time_rounds(
    work: Mapping[str, Callable[[], object]], *, rounds: int, media: float
) -> list[Timing]:
    """Do every piece of work once a round, forwards and backwards in turn.

    What grows or falls steadily meanwhile, as the speed of a machine that warms up, adds the same
    to all pieces in two such rounds.

    Args:
        work: Name and what to do.
        rounds: How many, 1 or more.
        media: Seconds of video that each piece of work goes through.

    Returns:
        Their timings, in the order given.
    """
    walls: dict[str, list[float]] = {part: [] for part in work}
    cpus: dict[str, list[float]] = {part: [] for part in work}
    for number in range(rounds):
        for part in list(work) if number % 2 == 0 else reversed(list(work)):
            wall, cpu = time.perf_counter(), cpu_seconds()
            work[part]()
            walls[part].append(time.perf_counter() - wall)
            cpus[part].append(cpu_seconds() - cpu)
    return [Timing(part, tuple(walls[part]), tuple(cpus[part]), media) for part in work]
