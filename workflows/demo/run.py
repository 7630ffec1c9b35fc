"""The demo: films are made, features extracted, models trained, measured and used.

Beside LoCo stand the models that show what it is made of: the same network without attention
across modalities, two single-modality networks, their decisions joined afterwards, and the answer
of a classifier that cannot localise. All are trained and measured here; no number is stored.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from pipeline.config import load_recipe
from pipeline.core.atomic import write_json, write_text
from pipeline.core.cores import core_count
from pipeline.core.errors import PipelineError
from pipeline.core.events import Event
from workflows.annotations import load_annotations
from workflows.demo.data import DemoData, DemoSize, make_demo_data
from workflows.demo.late import evaluate_late
from workflows.extraction.run import extract
from workflows.progress import Progress
from workflows.schedule import run_tasks
from workflows.stages import run_stages
from workflows.study.trial import Trial, run_trial

QUICK_SIZE = DemoSize(train=1, validation=1, test=1, long_seconds=16.0, clip_seconds=10.0)
QUICK_OVERRIDES = ("optim.epochs=2", "optim.warmup_epochs=1", "model.channels=32",
                   "model.decoder_channels=32")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of the demo.

    Attributes:
        name: Folder of its run.
        title: In the table.
        overrides: What it changes in the recipe.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()


LOCO = Variant("loco", "LoCo")
NO_CROSS = Variant(
    "no_cross",
    "without attention across modalities",
    ("model.fusion=none", "loss.correspondence=none"),
)
VISION = Variant("vision", "picture only", (*NO_CROSS.overrides, "data.modalities=vision"))
AUDIO = Variant("audio", "sound only", (*NO_CROSS.overrides, "data.modalities=audio"))
LATE_TITLE = "no fusion: both of them, decisions joined"
VARIANTS = (LOCO, NO_CROSS, VISION, AUDIO)


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One line of the result.

    Attributes:
        title: What was measured.
        at_half: mAP at tIoU 0.5, fraction of 1.
        average: Mean mAP over tIoU 0.1:0.1:0.9.
    """

    title: str
    at_half: float
    average: float


@dataclass(frozen=True, slots=True)
class LongFilm:
    """How LoCo did on the long film at the threshold that was best on validation.

    Attributes:
        true: Events that the film holds.
        found: Events that LoCo reports.
        hits: True events that a reported one of their class overlaps with tIoU 0.5 or more.
    """

    true: int
    found: int
    hits: int


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo made and measured.

    Attributes:
        folder: Where everything lies.
        data: The films.
        rows: Measured on the test subset, LoCo first.
        long_film: Detection on the long film.
        seconds: Wall-clock seconds of each part, in order.
    """

    folder: Path
    data: DemoData
    rows: tuple[DemoRow, ...]
    long_film: LongFilm
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """The trained LoCo."""
        return self.folder / "runs" / LOCO.name / "best.safetensors"

    def format_table(self) -> str:
        """The report as text; scores in percent."""
        lines = [
            f"{'mAP (%) on the test films':<40}{'tIoU 0.5':>10}{'0.1:0.1:0.9':>13}",
            *(
                f"{row.title:<40}{100 * row.at_half:>10.1f}{100 * row.average:>13.1f}"
                for row in self.rows
            ),
            "",
            f"long film: {self.long_film.hits} of {self.long_film.true} events found (tIoU 0.5), "
            f"{self.long_film.found - self.long_film.hits} false or doubled",
            "seconds: "
            + ", ".join(f"{name} {value:.0f}" for name, value in self.seconds.items())
            + f", together {sum(self.seconds.values()):.0f}",
            "",
            f"page of the long film: {self.folder / 'runs' / LOCO.name / 'detections'}",
            "next:",
            f"  pipeline detect --model {self.checkpoint} {self.data.long_video}",
            f"  pipeline run --stage all --config {self.folder / 'demo.yaml'}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "rows": [
                {"title": row.title, "mAP@0.5": row.at_half, "average_mAP": row.average}
                for row in self.rows
            ],
            "long_film": asdict(self.long_film),
            "seconds": self.seconds,
        }


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    quick: bool = False,
    variants: Sequence[Variant] = VARIANTS,
    report: Callable[[str], None] = lambda line: None,
) -> DemoReport:
    """Make the films, extract, train, evaluate and detect.

    Called again on the same folder, whatever is finished is kept.

    Args:
        out: Receives films, annotations, features, runs and ``demo.json``.
        seed: Decides the films; the seed of training stands in the recipe.
        device: Where encoders and models run.
        quick: A few films and two epochs: shows that everything works, measures nothing.
        variants: What is trained; `LOCO` must be among them.
        report: Takes a line as each part begins.

    Raises:
        PipelineError: A part fails; a missing ffmpeg or missing weights are `EnvironmentFault`.
    """
    clock = _Clock(report)
    with clock.part("films"):
        data = make_demo_data(out, seed=seed, size=QUICK_SIZE if quick else DemoSize())
        config = out / "demo.yaml"
        for name in ("demo.yaml", "clasp_demo.yaml"):
            recipe_text = files("workflows").joinpath("recipes", name).read_text("utf-8")
            write_text(out / name, recipe_text)
    with clock.part("features"):
        extracted = extract([data.videos], out / "features", device=device)
        if extracted.exit_code:
            raise PipelineError(f"not every film could be extracted\n{extracted.format_table()}")
    with clock.part("training"):
        measured = _train_all(variants, config, device=device, quick=quick)
    with clock.part("detection"):
        run_stages(load_recipe(config, overrides=QUICK_OVERRIDES if quick else ()), stage="detect")
        rows = _rows(variants, measured, config)
    result = DemoReport(out, data, rows, _count_long(out, data), clock.seconds)
    write_json(out / "demo.json", result.to_json())
    return result


def _train_all(
    variants: Sequence[Variant], config: Path, *, device: str, quick: bool
) -> dict[str, dict[str, Any]]:
    """Metrics of each variant by name: one process and core each on a CPU, else in turn."""
    extra = QUICK_OVERRIDES if quick else ()
    names = {}
    for variant in variants:
        folder = config.parent / "runs" / variant.name
        overrides = (*extra, *variant.overrides, f"output.folder={json.dumps(str(folder))}")
        names[Trial(str(config), overrides, device)] = variant.name
    alone = quick or core_count() == 1 or (device != "cpu" and torch.cuda.is_available())
    results = run_tasks(
        run_trial,
        names,
        scheduler="serial" if alone else "dask",
        workers=None if alone else min(core_count(), len(names)),
    )
    measured = {}
    with Progress(len(names), what="training", unit="model") as progress:
        for result in results:
            if result.value is None:
                raise result.error or PipelineError(f"training {names[result.item]} died")
            measured[names[result.item]] = result.value
            progress.advance()
    return measured


def _rows(
    variants: Sequence[Variant], measured: dict[str, dict[str, Any]], config: Path
) -> tuple[DemoRow, ...]:
    rows = [_row(variant.title, measured[variant.name]["scores"]) for variant in variants]
    if VISION.name in measured and AUDIO.name in measured:
        runs = config.parent / "runs"
        late = evaluate_late(
            load_recipe(config),
            [runs / variant.name / "best.safetensors" for variant in (VISION, AUDIO)],
        )
        rows.append(DemoRow(LATE_TITLE, late.at(0.5), late.average))
    whole = measured[LOCO.name]["whole_video_baseline"]
    return (*rows, _row("LoCo's classes, whole video", whole))


def _row(title: str, scores: dict[str, Any]) -> DemoRow:
    by_tiou = dict(zip(scores["tiou"], scores["mAP"], strict=True))
    return DemoRow(title, by_tiou[0.5], scores["average_mAP"])


def _count_long(out: Path, data: DemoData) -> LongFilm:
    """Compare what LoCo wrote about the long film with its annotations."""
    video = load_annotations(data.annotations).videos[data.long_video.name]
    written = out / "runs" / LOCO.name / "detections" / f"{data.long_video.stem}.events.json"
    rows = json.loads(written.read_text("utf-8"))["videos"][0]["events"]
    found = [Event(row["start"], row["end"], row["label"], row["score"]) for row in rows]
    return LongFilm(len(video.events), len(found), count_hits(video.events, found))


def count_hits(truth: Sequence[Event], found: Sequence[Event], *, tiou: float = 0.5) -> int:
    """Number of true events that an event of their class overlaps enough; each counts once."""
    free = sorted(found, key=lambda event: -event.score)
    hits = 0
    for true in truth:
        for event in free:
            overlap = min(true.end, event.end) - max(true.start, event.start)
            union = max(true.end, event.end) - min(true.start, event.start)
            if event.label == true.label and overlap >= tiou * union:
                free.remove(event)
                hits += 1
                break
    return hits


class _Clock:
    """Wall-clock seconds of named parts."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._report = report

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part."""
        self._report(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
