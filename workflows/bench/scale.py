"""What many hours of video cost, worked out from measured figures. Nothing is measured here.

Two saved benchmarks are the ground: ``bench speed`` says what one second of video costs, ``bench
plan`` what one finished video costs every later run. Where the nets run on a device that was not
measured, its rate is given: then only the time of the nets changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from extractors.registry import backbone_spec
from extractors.storage.packing import SHARD_BYTES, SHARD_VIDEOS
from pipeline.core.errors import UsageError
from workflows.bench.record import BenchRecord, Figure
from workflows.bench.speed_report import DECODE, MODEL, WHOLE

HOURS = (1.0, 1e3, 1e6)
SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One amount of video.

    Attributes:
        hours: How much.
        videos: Number of files.
        worker_hours: Hours of one worker: what the slower of decoding and nets takes.
        core_hours: Core hours of everything; None where the nets were not measured.
        decode_hours: Core hours of decoding, which are part of them.
        bytes: Size of the store.
        small_files: Files of single videos that are written, and joined later.
        shards: Files that stay.
        ledger_bytes: Size of the ledger.
        plan_hours: Core hours of a rerun that finds everything done.
        plan_bytes: Memory that it takes.
    """

    hours: float
    videos: float
    worker_hours: float
    core_hours: float | None
    decode_hours: float
    bytes: float
    small_files: float
    shards: float
    ledger_bytes: float
    plan_hours: float
    plan_bytes: float


@dataclass(frozen=True, slots=True)
class ScaleReport:
    """All amounts, and what one worker at full speed asks of what is around it.

    Attributes:
        title: What it was worked out from.
        rate: Steps a second of one worker's nets.
        speed: Seconds of video a second that one worker does while nothing keeps it waiting.
        cores: Cores that decode fast enough for it.
        read: Bytes of video a second that it reads.
        written: Bytes of features a second that it writes.
        videos: Files a second that it finishes.
        rows: One for each amount.
    """

    title: str
    rate: float
    speed: float
    cores: float
    read: float
    written: float
    videos: float
    rows: tuple[ScaleRow, ...]

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = [
            Figure("steps a second of a worker", self.rate, "1/s", "higher"),
            Figure("speed of a worker", self.speed, "x real time", "higher"),
            Figure("cores that decode for a worker", self.cores, "1"),
        ]
        for row in self.rows:
            figures += [
                Figure(f"{row.hours:g} h, worker hours", row.worker_hours, "h"),
                Figure(f"{row.hours:g} h, decoding, core hours", row.decode_hours, "h"),
                Figure(f"{row.hours:g} h, store", row.bytes, "B"),
                Figure(f"{row.hours:g} h, small files", row.small_files, "1"),
                Figure(f"{row.hours:g} h, shards", row.shards, "1"),
                Figure(f"{row.hours:g} h, planning a rerun, core hours", row.plan_hours, "h"),
                Figure(f"{row.hours:g} h, planning a rerun, memory", row.plan_bytes / 1e6, "MB"),
            ]
        return figures

    def format_table(self) -> str:
        """The report as text."""
        lines = [
            self.title,
            "",
            f"one worker: {self.rate:.4g} steps/s, {self.speed:.4g} x real time; for that it needs "
            f"{self.cores:.3g} cores that decode,",
            f"reads {self.read / 1e6:.3g} MB/s, writes {self.written / 1e6:.3g} MB/s in "
            f"{self.videos:.3g} files/s",
            "",
            f"{'hours of video':<30}" + "".join(f"{row.hours:>14,.0f}" for row in self.rows),
        ]
        table: tuple[tuple[str, list[str]], ...] = (
            ("files", [f"{row.videos:,.0f}" for row in self.rows]),
            ("worker hours", [_short(row.worker_hours) for row in self.rows]),
            ("core hours of everything", [_short(row.core_hours) for row in self.rows]),
            ("core hours of decoding", [_short(row.decode_hours) for row in self.rows]),
            ("store, GB", [_short(row.bytes / 1e9) for row in self.rows]),
            ("small files written", [f"{row.small_files:,.0f}" for row in self.rows]),
            ("shards that stay", [f"{row.shards:,.0f}" for row in self.rows]),
            ("ledger, GB", [_short(row.ledger_bytes / 1e9) for row in self.rows]),
            ("planning a rerun, core hours", [_short(row.plan_hours) for row in self.rows]),
            ("planning a rerun, memory GB", [_short(row.plan_bytes / 1e9) for row in self.rows]),
        )
        lines += [f"{name:<30}" + "".join(f"{v:>14}" for v in values) for name, values in table]
        return "\n".join(lines)


def work_out(
    speed: BenchRecord,
    plan: BenchRecord,
    *,
    steps_per_second: float | None = None,
    clip_seconds: float = 60.0,
) -> ScaleReport:
    """Costs of one, a thousand and a million hours of video.

    With d core seconds of decoding a second of video, s steps a second of video and r steps a
    second of the nets, a worker does r / s seconds of video a second and needs d · r / s cores;
    H hours of video take H · s / r hours of it.

    Args:
        speed: A run of ``bench speed``.
        plan: A run of ``bench plan``.
        steps_per_second: r of a device that was not measured; None takes the measured one.
        clip_seconds: Mean length of the files.

    Raises:
        UsageError: Records of other benchmarks or of older versions, or a value that is not
            positive.
    """
    for record, kind in ((speed, "speed"), (plan, "plan")):
        if record.kind != kind:
            raise UsageError(f"a run of bench {record.kind} was given as one of bench {kind}")
    for name, value in (("windows per second", steps_per_second), ("clip seconds", clip_seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{value} {name} is no positive number")
    costs, each = _values(speed), _values(plan)
    spec = backbone_spec(str(speed.task["backbone"]))
    steps = 1 / spec.grid.step_seconds  # s
    measured = steps_per_second is None
    rate = steps / costs[f"{MODEL}, wall"] if steps_per_second is None else steps_per_second
    wall = costs[f"{WHOLE}, wall"] if measured else steps / rate
    stored = costs["store per second of video"]
    decode = costs[f"{DECODE}, CPU"]
    if not {"rerun, CPU", "rerun, memory"} <= each.keys():
        raise UsageError(
            "the run of bench plan was saved by an older version", hint="run bench plan again"
        )
    rows = []
    for hours in HOURS:
        seconds = hours * SECONDS
        videos = max(1.0, seconds / clip_seconds)
        size = seconds * stored
        rows.append(
            ScaleRow(
                hours=hours,
                videos=videos,
                worker_hours=hours * wall,
                core_hours=hours * costs[f"{WHOLE}, CPU"] if measured else None,
                decode_hours=hours * decode,
                bytes=size,
                small_files=videos,
                shards=max(1.0, size / SHARD_BYTES, videos / SHARD_VIDEOS),
                ledger_bytes=videos * each["ledger"],
                plan_hours=videos * each["rerun, CPU"] / 1e6 / SECONDS,
                plan_bytes=videos * each["rerun, memory"],
            )
        )
    where = f"bench speed of {speed.commit or 'an unknown commit'} with {spec.name}"
    title = f"from {where} on {speed.machine.get('processor')}, files of {clip_seconds:g} s"
    if not measured:
        title += f"; nets at {rate:g} steps/s were GIVEN, not measured"
    return ScaleReport(
        title,
        rate,
        1 / wall,
        decode / wall,
        costs["source per second of video"] / wall,
        stored / wall,
        1 / wall / clip_seconds,
        tuple(rows),
    )


def _values(record: BenchRecord) -> Mapping[str, float]:
    return {figure.name: figure.value for figure in record.figures}


def _short(value: float | None) -> str:
    """Three digits that count, without an exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
