"""What `workflows.bench.backbones` found, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workflows.bench.matrix_rate import MatrixRate
from workflows.bench.record import Figure

TARGET_NAME, TARGET_PRECISION, TARGET_SHARE = "onepeace-video", "bf16", 0.45


@dataclass(frozen=True, slots=True)
class BackboneRow:
    """One net in one precision.

    Attributes:
        name: Of the net.
        precision: Of weights and arithmetic.
        batch: Rows at once.
        title: Net and input in words.
        unit: What a row is.
        flops: Operations of one row, 2 for a multiply-add.
        rate: Rows a second; None where the net did not run.
        peak: Largest memory in bytes; see the head of the report.
        cosine: With float32, of the worst window; None where there is nothing to compare.
        centred: That without what all windows have in common.
        matrix_rate: Operations a second of a plain product; None where there is none.
        reason: Why the net did not run, else empty.
        notes: What else is to know.
    """

    name: str
    precision: str
    batch: int
    title: str = ""
    unit: str = "window"
    flops: int = 0
    rate: float | None = None
    peak: int = 0
    cosine: float | None = None
    centred: float | None = None
    matrix_rate: float | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def flops_per_second(self) -> float | None:
        """Operations a second."""
        return None if self.rate is None else self.flops * self.rate

    @property
    def share(self) -> float | None:
        """Of the matrix rate."""
        if self.flops_per_second is None or self.matrix_rate is None:
            return None
        return self.flops_per_second / self.matrix_rate

    def with_facts(self, *, title: str, unit: str, flops: int, notes: Sequence[str]) -> BackboneRow:
        """The same row with what is known of the net in every precision."""
        return replace(self, title=title, unit=unit, flops=flops, notes=tuple(notes))

    def against(self, rate: MatrixRate) -> BackboneRow:
        """The same row beside the device's rate in its precision."""
        return replace(self, matrix_rate=rate.rate)

    def figures(self) -> list[Figure]:
        """The row for machines; of a net that did not run only that it did not."""
        head = f"{self.name}, {self.precision}"
        figures = [Figure(f"{head}, runs", float(self.rate is not None), "1", "higher")]
        if self.rate is None:
            return figures
        figures += [
            Figure(f"{head}, rate", self.rate, f"{self.unit}s/s", "higher"),
            Figure(f"{head}, batch", self.batch, f"{self.unit}s", "neither"),
            Figure(f"{head}, operations", self.flops / 1e9, f"GFLOP/{self.unit}", "neither"),
            Figure(f"{head}, peak memory", self.peak / 1e6, "MB"),
        ]
        optional = (
            ("cosine to fp32", self.cosine),
            ("centred cosine to fp32", self.centred),
            ("share of the matrix rate", self.share),
        )
        for name, value in optional:
            if value is not None:
                figures.append(Figure(f"{head}, {name}", value, "1", "higher"))
        return figures

    def format_line(self) -> str:
        """The row as a line of the table."""
        head = f"{self.name:<15} {self.precision:<5} {self.batch:>5} "
        if self.rate is None or self.flops_per_second is None:
            return f"{head} does not run: {self.reason}"
        share = "" if self.share is None else f"{100 * self.share:.1f} %"
        cosine, centred = (
            "" if value is None else f"{value:.6f}" for value in (self.cosine, self.centred)
        )
        return (
            f"{head}{self.rate:>10.2f} {self.unit + 's/s':<13}{self.flops / 1e9:>10.2f} "
            f"{self.flops_per_second / 1e12:>9.3f} {share:>8} {self.peak / 2**30:>9.2f} "
            f"{cosine:>10} {centred:>10}"
        )


@dataclass(frozen=True, slots=True)
class BackboneReport:
    """All nets on one device.

    Attributes:
        machine: What the process ran on.
        device: What the nets ran on.
        settings: How they computed.
        rates: Of plain products, one a precision.
        rows: One a net and precision.
        has_target: Whether the target of ONE-PEACE means this device and these sizes.
    """

    machine: str
    device: str
    settings: str
    rates: tuple[MatrixRate, ...]
    rows: tuple[BackboneRow, ...]
    has_target: bool = False

    def with_rows(self, rows: Sequence[BackboneRow]) -> BackboneReport:
        """The same report with its rows."""
        return replace(self, rows=tuple(rows))

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = [
            Figure(f"matrix product, {rate.precision}", rate.rate / 1e12, "TFLOP/s", "higher")
            for rate in self.rates
            if rate.rate is not None
        ]
        return figures + [figure for row in self.rows for figure in row.figures()]

    def format_head(self) -> str:
        """What stands above the table, and its columns."""
        lines = [self.machine, self.device, self.settings, ""]
        for rate in self.rates:
            found = (
                f"does not run: {rate.reason}"
                if rate.rate is None
                else f"{rate.rate / 1e12:.3f} TFLOP/s ({rate.side}x{rate.side})"
            )
            lines.append(f"product of matrices in {rate.precision}: {found}")
        columns = (
            f"{'':<15} {'':<5} {'batch':>5} {'rate':>10} {'':<13}{'GFLOP':>10} {'TFLOP/s':>9} "
            f"{'share':>8} {'peak GiB':>9} {'cosine':>10} {'centred':>10}"
        )
        return "\n".join([*lines, "", columns])

    def format_table(self) -> str:
        """The report as text."""
        lines = [self.format_head(), *(row.format_line() for row in self.rows), ""]
        titles = {row.name: row.title for row in self.rows}
        lines += [f"{name}: {title}" for name, title in titles.items()]
        lines += [
            f"{row.name} in {row.precision}: {note}" for row in self.rows for note in row.notes
        ]
        lines += [
            "GFLOP: of one row, 2 operations for a multiply-add; share: of the product of matrices",
            "cosine: to fp32, the worst window; centred: without what all windows share",
            self.format_target(),
        ]
        return "\n".join(lines)

    def format_target(self) -> str:
        """Whether the one net with a target reaches it."""
        target = f"{TARGET_NAME} in {TARGET_PRECISION} at {100 * TARGET_SHARE:.0f} % of the rate"
        if not self.has_target:
            return f"target, {target}: meant for a GPU and the released size, not judged here"
        wanted = (TARGET_NAME, TARGET_PRECISION)
        share = next((r.share for r in self.rows if (r.name, r.precision) == wanted), None)
        if share is None:
            return f"target, {target}: not measured"
        verdict = "reached" if share >= TARGET_SHARE else "not reached"
        return f"target, {target}: {verdict} ({100 * share:.1f} %)"
