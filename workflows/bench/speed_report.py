"""What was measured of the extraction of one file, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from workflows.bench.record import Figure
from workflows.bench.rounds import Timing

TARGET = 1.3  # whole extraction over the slower of decoding and model
DECODE, MODEL, WRITE, WHOLE = "decode alone", "model alone", "write alone", "whole extraction"


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """Timings of one file and what they were measured on.

    Attributes:
        file: The file and the nets.
        machine: Where.
        timings: One for each part; the four that all others are details of are always there, each
            timed in the same rounds.
        load: Seconds that loading the nets took.
        peak: Largest resident memory, in bytes, of the process and its decoders while they worked
            on the whole; None where it cannot be read.
        device_peak: The same of a CUDA device; None without one.
        row_bytes: What one step takes in the store.
        steps: Steps of the file.
        size: Bytes of the file.
    """

    file: str
    machine: str
    timings: tuple[Timing, ...]
    load: float = 0.0
    peak: int | None = None
    device_peak: int | None = None
    row_bytes: int = 0
    steps: int = 0
    size: int = 0

    def timing(self, part: str) -> Timing:
        """Timing of one part.

        Raises:
            KeyError: There is none.
        """
        for row in self.timings:
            if row.part == part:
                return row
        raise KeyError(part)

    @property
    def speed(self) -> float:
        """Seconds of video that the whole extraction does in a second."""
        return 1 / self.timing(WHOLE).wall_per_second

    @property
    def overlaps(self) -> tuple[float, ...]:
        """The whole over the slower of decoding and the model on the clock, of each round."""
        rows = (self.timing(part).walls for part in (WHOLE, DECODE, MODEL))
        return tuple(whole / max(decode, model) for whole, decode, model in zip(*rows, strict=True))

    @property
    def overlap(self) -> float:
        """Median of the rounds' ratios."""
        return median(self.overlaps)

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = []
        for row in self.timings:
            figures.append(Figure(f"{row.part}, wall", row.wall_per_second, "s/s"))
            figures.append(Figure(f"{row.part}, CPU", row.cpu_per_second, "s/s"))
        ratio = "whole over slower part"
        figures += [
            Figure("speed", self.speed, "x real time", "higher"),
            Figure(ratio, self.overlap, "1"),
            Figure(f"{ratio}, least round", min(self.overlaps), "1", "neither"),
            Figure(f"{ratio}, largest round", max(self.overlaps), "1", "neither"),
            Figure("loading", self.load, "s"),
            Figure("store per second of video", self._stored, "B/s"),
            Figure("source per second of video", self._source, "B/s", "neither"),
        ]
        if self.peak is not None:
            figures.append(Figure("peak memory", self.peak / 1e6, "MB"))
        if self.device_peak is not None:
            figures.append(Figure("peak memory of the device", self.device_peak / 1e6, "MB"))
        return figures

    def format_table(self) -> str:
        """The report as text: one row per part, then the sums."""
        rounds = f"medians of {len(self.overlaps)} rounds, details timed once"
        lines = [self.machine, self.file, rounds, ""]
        head = f"{'part':<28} {'wall s':>8} {'CPU s':>8} {'wall s/s':>9} {'CPU s/s':>9}"
        lines.append(f"{head}  wall s, all rounds")
        lines += [_line(row) for row in self.timings]
        verdict = "within" if self.overlap <= TARGET else "NOT within"
        lines += [
            "",
            f"{self.speed:.2f} x real time",
            f"whole over the slower of decode and model: {self.overlap:.3f} (rounds: "
            f"{min(self.overlaps):.3f} to {max(self.overlaps):.3f}), {verdict} {TARGET:g}",
            f"store: {self._stored:,.0f} bytes a second of video",
        ]
        if self.peak is not None:
            lines.append(f"peak memory, process and decoders: {self.peak / 1e6:.0f} MB")
        if self.device_peak is not None:
            lines.append(f"peak memory of the device: {self.device_peak / 1e6:.0f} MB")
        return "\n".join(lines)

    @property
    def _stored(self) -> float:
        return self.row_bytes * self.steps / self.timing(WHOLE).media

    @property
    def _source(self) -> float:
        return self.size / self.timing(WHOLE).media


def _line(row: Timing) -> str:
    """One row of the table; how far the rounds differ where there were several."""
    spread = f"  {min(row.walls):.2f} to {max(row.walls):.2f}" if len(row.walls) > 1 else ""
    return (
        f"{row.part:<28} {row.wall:>8.2f} {row.cpu:>8.2f} "
        f"{row.wall_per_second:>9.4f} {row.cpu_per_second:>9.4f}{spread}"
    )
