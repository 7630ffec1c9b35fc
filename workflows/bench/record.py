"""Figures of a benchmark as a file, one format for all kinds.

A report of a benchmark says its figures; what they were measured on is added here, and two files
can be held against each other (`workflows.bench.compare`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.core.atomic import write_json
from pipeline.core.errors import ConfigError, UsageError
from workflows.bench.machine import commit, machine_facts, versions

FORMAT, VERSION = "davel-benchmark", 1
Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    Attributes:
        name: What it is, unique within a benchmark and the same in every run of it.
        value: A finite number.
        unit: Of the value; "1" for shares and ratios.
        better: Which direction is an improvement; ``neither`` for what only describes.
    """

    name: str
    value: float
    unit: str
    better: Better = "lower"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"the figure {self.name!r} is {self.value}")


class BenchReport(Protocol):
    """What every benchmark returns."""

    def format_table(self) -> str:
        """The report for people."""
        ...

    def figures(self) -> Sequence[Figure]:
        """The report for machines."""
        ...


@dataclass(frozen=True, slots=True)
class BenchRecord:
    """One run of one benchmark.

    Attributes:
        kind: Which benchmark, as on the command line.
        task: What it was asked to measure: its arguments as plain values.
        figures: What it measured.
        device: Kind of device that the nets ran on: ``cpu`` or ``cuda``.
        machine: See `workflows.bench.machine.machine_facts`.
        versions: See `workflows.bench.machine.versions`.
        commit: Of the source; "" outside a checkout.
        time: Unix time at which it ended.
    """

    kind: str
    task: Mapping[str, Any]
    figures: tuple[Figure, ...]
    device: str = "cpu"
    machine: Mapping[str, Any] = field(default_factory=machine_facts)
    versions: Mapping[str, str] = field(default_factory=versions)
    commit: str = field(default_factory=commit)
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures]
        if len(set(names)) < len(names):
            raise ValueError(f"two figures of one name: {sorted(names)}")

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record atomically as JSON."""
        write_json(path, self.to_json())


def read_record(path: str | os.PathLike[str]) -> BenchRecord:
    """A record that was saved.

    Raises:
        UsageError: There is no such file.
        ConfigError: The file holds something else, or is damaged.
    """
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{path} does not exist", hint="make it with: pipeline bench KIND --json FILE"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError(f"{path} is no record of a benchmark")
    if value.get("version") != VERSION:
        raise ConfigError(
            f"{path} has format version {value.get('version')}, this program reads {VERSION}",
            hint="update the program",
        )
    try:
        return BenchRecord(
            kind=str(value["kind"]),
            task=dict(value["task"]),
            figures=tuple(_figure(row) for row in value["figures"]),
            device=str(value["device"]),
            machine=dict(value["machine"]),
            versions=dict(value["versions"]),
            commit=str(value["commit"]),
            time=float(value["time"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} is damaged: {error!r}") from error


def _figure(row: Mapping[str, Any]) -> Figure:
    if row["better"] not in ("lower", "higher", "neither"):
        raise ValueError(f"better={row['better']!r}")
    return Figure(str(row["name"]), float(row["value"]), str(row["unit"]), row["better"])
