"""Every kind of benchmark says its figures, and the same names in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import build_parser
from pipeline.commands.bench import KINDS, task_of
from workflows.bench.clips import ClipsReport
from workflows.bench.epoch import EpochReport, EpochRow
from workflows.bench.eval import EvaluationReport
from workflows.bench.loading import LoadingReport, LoadingRow, Passage
from workflows.bench.memory import MemoryReport, MemoryRun
from workflows.bench.plan import Cost, PlanReport
from workflows.bench.precision import LossCurve, PrecisionReport
from workflows.bench.record import BenchRecord, BenchReport
from workflows.bench.semireal import SemirealReport
from workflows.bench.sounds import SoundReport, SoundRow
from workflows.bench.train import StepPlan, StepReport
from workflows.detection.agreement import AgreementSettings

PASSAGE = Passage(first=0.5, step=0.2, waiting=0.01, cpu=0.3)
RUN = MemoryRun(media_seconds=10, steps=37, reader="decord", peak_bytes=10**8, wall_seconds=1.0)
FIT = (0.65, 0.015)
SEMIREAL = SemirealReport(
    sounds=1,
    pictures=1,
    audio_fit=FIT,
    vision_fit=(*FIT, 1.0),
    curve=((0.3, 0.9, 0.5, 0.6),),
    settings=AgreementSettings(),
    method="agreement",
    min_score=0.3,
    parts={"agreement": (0.6, 0.5)},
)
REPORTS: dict[str, BenchReport] = {
    "memory": MemoryReport("extract", RUN, RUN),
    "sounds": SoundReport("yamnet", (SoundRow("dog", 40, 20, 30, ("Dog",)),)),
    "clips": ClipsReport("agreement", (), ()),
    "agreement": SEMIREAL,
    "train": StepReport(StepPlan(), "here", (3.0, 1.0, 1.0), (6.0, 2.0, 2.0), 10**9, 0.001),
    "map": EvaluationReport("mAP", "here", (0.2, 0.1), (0.3, 0.2), "50 %"),
    "precision": PrecisionReport(
        "here", "", (LossCurve("fp32", (2.0, 1.0), 0.1), LossCurve("bf16", (2.0, 1.1), 0.1))
    ),
    "loading": LoadingReport("here", "", (LoadingRow(64, PASSAGE, PASSAGE, PASSAGE),)),
    "epoch": EpochReport("here", "", (EpochRow("fp32", 0.1, 60.0, 10**9, 1.0),)),
    "plan": PlanReport("here", 100, *[Cost(0.1, 10**5)] * 5, 10**4, 10**4, 4),
}
EXPECTED = {
    "memory": ("long file over short file", 1.0),
    "sounds": ("all names", 0.5),
    "clips": ("best event right", 0.0),
    "agreement": ("score >= 0.30, recall", 0.5),
    "train": ("step, CPU", 2.0),
    "map": ("CPU", 100.0),
    "precision": ("bf16, deviation of means over 10", 0.05 / 1.5),
    "loading": ("width 64, over no waiting", 0.2 / 0.19),
    "epoch": ("fp32, peak memory", 1000.0),
    "plan": ("rerun, memory", 1000.0),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_a_kind_says_its_figures(kind: str, tmp_path: Path) -> None:
    figures = tuple(REPORTS[kind].figures())
    name, value = EXPECTED[kind]
    assert {figure.name: figure.value for figure in figures}[name] == pytest.approx(value)
    BenchRecord(kind, {}, figures).save(tmp_path / "a.json")  # refuses two of one name


def test_the_other_kinds_are_measured_in_other_tests() -> None:
    assert KINDS.keys() - REPORTS.keys() == {"speed", "softnms", "scale", "backbones", "busy"}


def test_a_task_is_what_was_asked_for_and_not_where_or_on_what() -> None:
    words = ["bench", "speed", "/some/where/clip.mp4", "--device", "cpu", "--json", "/tmp/a.json"]
    args = build_parser().parse_args([*words, "--rounds", "7"])  # how surely it was measured
    assert task_of(args) == {"file": "clip.mp4", "backbone": "lite"}
    other = build_parser().parse_args(["bench", "loading", "--folder", "/tmp", "--videos", "7"])
    assert task_of(other)["videos"] == 7 and "/tmp" not in task_of(other).values()
