"""How busy a device is while videos are extracted."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from extractors.joint import JointBatches
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault, UsageError
from workflows.bench.busy import LENGTHS, BusyReport, BusyTask, covered, measure_busy
from workflows.bench.busy_nets import SPEC, SimulatedDevice
from workflows.bench.record import read_record
from workflows.bench.utilisation import Utilisation

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(1.0, 2.0)], 1.0),
        ([(3.0, 4.0), (1.0, 2.0)], 2.0),
        ([(1.0, 3.0), (2.0, 4.0)], 3.0),
        ([(1.0, 5.0), (2.0, 3.0), (4.0, 6.0)], 5.0),
        ([(1.0, 2.0), (2.0, 3.0)], 2.0),
    ],
)
def test_what_overlaps_counts_once(intervals: list[tuple[float, float]], expected: float) -> None:
    assert covered(intervals) == expected


REPORT = BusyReport(
    "a machine",
    "a device",
    BusyTask(CPU, batch_ms=1.0, videos=2, at_once=3),
    intervals=[(10.0, 13.0), (16.0, 20.0), (13.0, 15.0)],
    wall=15.0,
    warm_up=4.0,
    cpu=30.0,
    media=60.0,
    steps=240,
)


def test_the_report_counts_from_the_first_batch_to_the_last() -> None:
    figures = {figure.name: figure.value for figure in REPORT.figures()}
    assert figures == {
        "device busy": 0.9,
        "device busy, whole run": 0.6,
        "until the first batch": 4.0,
        "windows": 24.0,
        "speed": 4.0,
        "batch": 3.0,
        "cores in use": 2.0,
        "beside the device, CPU": 0.5,
    }
    text = REPORT.format_table()
    assert "90.0% of 10.00 s, NOT over 90%" in text
    assert "3 in flight" in text


def test_the_report_says_when_it_is_enough_and_what_the_driver_says() -> None:
    report = replace(REPORT, intervals=[(0.0, 9.5), (9.6, 10.0)], utilisation=0.87)
    assert "99.0% of 10.00 s, over 90%" in report.format_table()
    assert "busy, as its driver says: 87.0%" in report.format_table()
    assert report.figures()[-1].value == 0.87


def test_a_made_up_device_works_off_its_queue_in_order() -> None:
    device, batch = SimulatedDevice(0.5), np.zeros((3, 1))
    started = time.perf_counter()
    first, second = device.launch(batch), device.launch(batch)
    assert time.perf_counter() - started < 0.5  # launching waits for nothing
    assert len(device.collect(second)[0]) == 3
    assert time.perf_counter() - started >= 1.0
    (begin, end), after = device.intervals()
    assert end - begin == pytest.approx(0.5)
    assert after == (end, pytest.approx(end + 0.5))
    assert len(device.collect(first)[0]) == 3
    assert device.first_at() == begin


def test_a_device_with_a_queue_does_not_wait_between_the_batches_of_one_request() -> None:
    device = SimulatedDevice(0.3)
    joint = JointBatches(device.launch, device.collect, rows=4)
    joint(np.zeros((20, 1)))
    intervals = device.intervals()
    assert len(intervals) == 5
    for (_, end), (begin, _) in pairwise(intervals):
        assert begin == end


def test_extraction_beside_a_made_up_device_is_measured(tmp_path: Path) -> None:
    saved = tmp_path / "busy.json"
    words = ["bench", "busy", "--device", "cpu", "--batch-ms", "20", "--videos", "3"]
    words += ["--seconds", "4", "--size", "64", "48", "--at-once", "2", "--json", str(saved)]
    assert main(words) == 0
    record = read_record(saved)
    figures = {figure.name: figure.value for figure in record.figures}
    assert 0 < figures["device busy"] <= 1
    assert figures["device busy, whole run"] < figures["device busy"]
    assert figures["batch"] == pytest.approx(0.02)
    assert record.task["batch_ms"] == 20


def test_every_window_goes_over_the_device_once() -> None:
    task = BusyTask(CPU, batch_ms=5.0, videos=6, seconds=4, size=(64, 48), at_once=1)
    report = measure_busy(task)
    lengths = [4 * share for share in (*LENGTHS, LENGTHS[0])]
    assert report.steps == sum(map(SPEC.grid.steps, lengths))
    # Batches of 16, one video after the other.
    assert len(report.intervals) == sum(-(-SPEC.grid.steps(length) // 16) for length in lengths)
    assert report.media == pytest.approx(sum(lengths), abs=0.5)
    assert report.warm_up < report.wall


def test_without_a_gpu_one_has_to_be_made_up() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        BusyTask(CPU)
    assert "--batch-ms" in caught.value.hint


@pytest.mark.parametrize("wrong", [{"videos": 0}, {"seconds": 0.5}, {"batch_ms": 0.0}])
def test_tasks_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        BusyTask(CPU, **{"batch_ms": 1.0, **wrong})  # type: ignore[arg-type]


def watch_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, script: str | None
) -> tuple[float | None, str]:
    """What a program in place of the driver's is understood to say, and how it was called."""
    called = folder / "called"
    if script is not None:
        program = folder / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho "$@" > {called}\n{script}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":" if script is not None else None)
    facts = SimpleNamespace(uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    started = time.perf_counter()
    with Utilisation(torch.device("cuda")) as seen:
        end = time.monotonic() + 20
        while script is not None and seen._reader is not None and time.monotonic() < end:
            if len(seen._samples) == 3 or not seen._reader.is_alive():
                break
            time.sleep(0.01)
    said = seen.mean(started, time.perf_counter())
    assert seen.mean(started - 2, started - 1) is None
    return said, called.read_text() if called.exists() else ""


def test_the_driver_is_asked_for_this_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    share, called = watch_with(
        monkeypatch, tmp_path, "echo 90; echo 100; echo '[N/A]'; echo 20; exec sleep 60"
    )
    assert share == pytest.approx(0.7)
    assert "--id=GPU-1234-abcd" in called


@pytest.mark.parametrize("script", ["echo No devices were found", None])
def test_a_driver_that_says_nothing_gives_no_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None
) -> None:
    share, _ = watch_with(monkeypatch, tmp_path, script)
    assert share is None


def test_nobody_is_asked_of_a_made_up_device() -> None:
    with Utilisation(None) as seen:
        pass
    assert seen.mean(0, time.perf_counter()) is None
