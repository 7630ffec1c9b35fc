"""The benchmark of extraction: what it times, in which order, and what it makes of the rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from extractors.media.info import MediaInfo
from extractors.media.probe import probe
from extractors.stream import FeatureStream, Sources
from fixtures.backbones import TOY, toy
from fixtures.media import run_ffmpeg
from pipeline.cli import main
from pipeline.core.errors import UsageError
from workflows.bench import rounds, speed
from workflows.bench.noise import noise_sources
from workflows.bench.rounds import Timing, time_rounds
from workflows.bench.speed import measure_speed
from workflows.bench.speed_report import DECODE, MODEL, WHOLE, WRITE, SpeedReport

BALLAST = 200_000_000  # bytes


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of picture and sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=3", "-f", "lavfi", "-i", "sine=d=3"]
    run_ffmpeg(*picture, "-pix_fmt", "yuv420p", "-c:a", "aac", path)
    return path


@pytest.fixture
def toy_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "load_backbone", lambda name, device: toy())


@pytest.mark.usefixtures("toy_nets")
def test_every_part_is_measured_and_the_whole(clip: Path) -> None:
    report = measure_speed(clip, backbone="toy", rounds=2)
    names = [row.part for row in report.timings]
    assert names[:4] == [WHOLE, DECODE, MODEL, WRITE]
    assert {"decode picture (ffmpeg)", "decode sound", "picture encoder alone"} <= set(names)
    assert [len(row.walls) for row in report.timings] == [2] * 4 + [1] * (len(names) - 4)
    assert report.steps == TOY.spec.grid.steps(report.timing(WHOLE).media)
    figures = {figure.name: figure for figure in report.figures()}
    assert figures["speed"].value == pytest.approx(1 / report.timing(WHOLE).wall_per_second)
    assert figures["peak memory"].value > 10
    assert "x real time" in report.format_table()


def test_rounds_go_forwards_and_backwards_in_turn() -> None:
    done: list[str] = []
    work: dict[str, Callable[[], object]] = {
        "a": lambda: done.append("a"),
        "b": lambda: done.append("b"),
        "c": lambda: done.append("c"),
    }
    timings = time_rounds(work, rounds=3, media=1.0)
    assert "".join(done) == "abccbaabc"
    assert [row.part for row in timings] == ["a", "b", "c"]


def test_a_steady_drift_of_the_machine_leaves_ratios_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows in each round would else be taken for slower than what comes first."""
    now = [0.0]
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += 1 + now[0] / 100  # each takes longer than the one before

    timings = time_rounds({"a": work, "b": work}, rounds=4, media=1.0)
    ratios = [b / a for a, b in zip(*(row.walls for row in timings), strict=True)]
    assert min(ratios) < 1 < max(ratios)
    assert np.prod(ratios) == pytest.approx(1)


def report_of(walls: dict[str, tuple[float, ...]]) -> SpeedReport:
    timings = [Timing(part, each, each, media=10.0) for part, each in walls.items()]
    return SpeedReport("clip.mp4", "here", tuple(timings))


def test_the_ratio_is_taken_within_each_round() -> None:
    """The machine was twice as slow in the second round: that is no part of the ratio."""
    walls = {WHOLE: (12.0, 26.0, 33.0), DECODE: (1.0, 30.0, 3.0), MODEL: (10.0, 20.0, 30.0)}
    report = report_of({**walls, WRITE: (0.1, 0.1, 0.1)})
    assert report.overlaps == pytest.approx((1.2, 26 / 30, 1.1))
    assert report.overlap == pytest.approx(1.1)
    assert report.timing(WHOLE).wall == 26 and report.speed == pytest.approx(10 / 26)
    assert "model: 1.100 (rounds: 0.867 to 1.200), within 1.3" in report.format_table()
    figures = {figure.name: figure for figure in report.figures()}
    assert figures["whole over slower part"].value == pytest.approx(1.1)
    assert figures["whole over slower part, largest round"].value == pytest.approx(1.2)
    assert figures["whole over slower part, largest round"].better == "neither"


def test_a_ratio_above_the_limit_is_called_so() -> None:
    walls = {WHOLE: (14.0,), DECODE: (1.0,), MODEL: (10.0,), WRITE: (0.1,)}
    assert "NOT within 1.3" in report_of(walls).format_table()


@pytest.mark.usefixtures("toy_nets")
def test_what_other_parts_hold_is_no_memory_of_the_whole(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = measure_speed(clip, backbone="toy", rounds=1)
    held: list[object] = []

    def hoarding(info: MediaInfo) -> Sources:
        held.append(np.ones(BALLAST, np.uint8) if len(held) == 1 else None)  # first comes a warm-up
        return noise_sources(info)

    monkeypatch.setattr(speed, "noise_sources", hoarding)
    report = measure_speed(clip, backbone="toy", rounds=1)
    assert len(held) > 1 and report.peak is not None and usual.peak is not None
    assert report.peak < usual.peak + BALLAST / 2


def test_no_round_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="rounds=0, must be 1 or more"):
        measure_speed(tmp_path / "none.mp4", rounds=0)
    assert main(["bench", "speed", str(tmp_path / "none.mp4"), "--rounds", "0"]) == 2
    assert "rounds=0" in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["frame", "window"])
def test_noise_goes_through_the_same_batches_as_the_file(
    clip: Path, unit: Literal["frame", "window"]
) -> None:
    """Otherwise the model alone could not be compared with the whole."""
    info, real, noise = probe(clip), toy(unit=unit), toy(unit=unit)
    stream, made_up = (
        FeatureStream(info, real),
        FeatureStream(info, noise, sources=noise_sources(info)),
    )
    assert sum(len(rows["vision"]) for rows in stream) == stream.summary.steps
    assert sum(len(rows["vision"]) for rows in made_up) == made_up.summary.steps
    assert made_up.summary.steps == stream.summary.steps
    assert noise.vision.calls == real.vision.calls != []  # type: ignore[attr-defined]
    assert noise.audio.calls == real.audio.calls != []  # type: ignore[attr-defined]
