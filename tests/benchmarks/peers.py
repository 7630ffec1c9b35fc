"""Work that ActionFormer's package does too, side by side: what it costs and whether answers agree.

    python -m venv peers && . peers/bin/activate
    pip install -c constraints.txt -e . && pip install setuptools wheel h5py
    pip install --no-build-isolation --no-deps actionformer==1.5.0
    pip install --no-deps pandas joblib scipy tensorboard python-dateutil six
    python tests/benchmarks/peers.py [--annotations unav100_annotations.json] [--repeats 3]

The package is a fork of the public code of ActionFormer (Zhang et al. 2022), from which UnAV's and
LoCo's label assignment, evaluation and suppression descend; it is built here with its compiled
suppression. It is installed by itself, as it wants packages that disturb ours. Printed are CPU
seconds of this process, in turns, of the fastest of the repeats.

Not the same work: the networks of the training step. ActionFormer has one stream, which gets both
features joined, LoCo two; both have width 512, six levels and all steps of training.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.assignment import assign_batch
from model.points import make_points
from model.softnms import multiclass_soft_nms
from pipeline.core.events import Event
from workflows.bench.data import PlantedVideos, Sizes
from workflows.bench.eval import (
    UNAV_TEST_VIDEOS,
    made_up_truth,
    random_candidates,
    read_truth,
    simulated_predictions,
)
from workflows.bench.machine import machine_line
from workflows.bench.stopwatch import Stopwatch, load_line
from workflows.bench.train import StepPlan, bench_model, bench_settings
from workflows.metrics import TIOU, mean_average_precision
from workflows.training.batch import Batch
from workflows.training.loop import train_step
from workflows.training.state import start_training

try:
    import actionformer
    from actionformer.utils.metrics import ANETdetection
    from actionformer.utils.nms import HAS_CPP_NMS, batched_nms
except ImportError as problem:
    raise SystemExit(
        f"this benchmark needs the package actionformer: {problem}\n{__doc__}"
    ) from None

LEVELS, STEPS, VIDEOS, CHANNELS = 6, 256, 16, 512
CANDIDATES, CLASSES, KEPT, SIGMA, MIN_SCORE = 12_000, 100, 100, 0.4, 0.001
HARD_IOU = 0.7  # of hard suppression; Gaussian decay does not look at it


@dataclass(frozen=True)
class Side:
    """What one side took at its best."""

    cpu: float
    answer: Any


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> tuple[Side, Side]:
    """Run both ``repeats`` times after a first time that does not count."""
    runs: tuple[list[Side], list[Side]] = ([], [])
    for number in range(repeats + 1):
        for run, work in zip(runs, (ours, theirs), strict=True):
            with Stopwatch() as watch:
                answer = work()
            if number:
                run.append(Side(watch.cpu, answer))
    first, second = (min(run, key=lambda side: side.cpu) for run in runs)
    return first, second


def peer_model() -> Any:
    """ActionFormer at LoCo's width with the events' whole span as positive points."""
    config = copy.deepcopy(actionformer.load_default_config())
    plan = StepPlan()
    ends = [4.0 * 2**level for level in range(LEVELS - 1)]
    config["model"].update(
        input_dim=plan.vision_dim + plan.audio_dim,
        num_classes=plan.classes,
        max_seq_len=STEPS,
        train_cfg={**config["train_cfg"], "center_sample": "none"},
        test_cfg=config["test_cfg"],
        regression_range=list(zip([0.0, *ends], [*ends, 10_000.0], strict=True)),
    )
    torch.manual_seed(0)
    return actionformer.make_meta_arch("LocPointTransformer", **config["model"])


def compare_assignment(batch: Batch, peer: Any, repeats: int) -> str:
    """Labels of a batch; ActionFormer's rule is ours with ``class_aware=False``."""
    points = make_points([-(-STEPS // 2**level) for level in range(LEVELS)])
    theirs_points = [torch.stack([points.times, points.low, points.high, points.strides], dim=1)]

    def ours() -> tuple[Tensor, Tensor]:
        return assign_batch(
            points, batch.segments, batch.labels, classes=CLASSES, class_aware=False
        )

    def theirs() -> tuple[Tensor, Tensor]:
        target, distance = peer.label_points(theirs_points, batch.segments, batch.labels)
        return torch.stack(target), torch.stack(distance)

    one, other = in_turns(ours, theirs, repeats * 5)
    same = torch.equal(one.answer[0], other.answer[0])
    place = one.answer[0].bool()
    near = (one.answer[1] - other.answer[1][:, :, None])[place].abs().max()
    return line(
        f"labels of {VIDEOS} x {STEPS} steps",
        one,
        other,
        f"classes {'equal' if same else 'DIFFER'}; distances within {near:.0e} steps",
    )


def compare_map(annotations: Path | None, repeats: int) -> str:
    """mAP over nine thresholds of 100 predictions a video; the package also computes recall."""
    if annotations is None:
        truth, durations = made_up_truth(UNAV_TEST_VIDEOS)
    else:
        truth, durations = read_truth(annotations, "test")
    found = simulated_predictions(truth, durations, per_video=100)
    with tempfile.TemporaryDirectory() as folder:
        judge = peer_judge(truth, Path(folder) / "truth.json")
    table = peer_table(found, judge)

    def theirs() -> float:
        judged = judge["judge"].evaluate({key: value.copy() for key, value in table.items()}, False)
        return float(judged[1])

    one, other = in_turns(lambda: mean_average_precision(truth, found).average, theirs, repeats)
    return line(
        f"mAP of {len(truth)} videos x 100",
        one,
        other,
        f"{100 * one.answer:.4f} and {100 * other.answer:.4f} %",
    )


def peer_judge(truth: Mapping[str, Sequence[Event]], path: Path) -> dict[str, Any]:
    """The package's evaluator, which reads true events from a file, and its class numbers."""
    classes = sorted({event.label for events in truth.values() for event in events})
    number = {label: place for place, label in enumerate(classes)}
    rows = {
        video: {
            "subset": "test",
            "annotations": [
                {"segment": [event.start, event.end], "label_id": number[event.label]}
                for event in events
            ],
        }
        for video, events in truth.items()
    }
    path.write_text(json.dumps({"database": rows}))
    judge = ANETdetection(str(path), split="test", tiou_thresholds=np.array(TIOU), num_workers=1)
    return {"judge": judge, "number": number}


def peer_table(found: Mapping[str, Sequence[Event]], judge: Mapping[str, Any]) -> dict[str, Any]:
    """Predictions as columns."""
    rows = [(video, event) for video, events in found.items() for event in events]
    return {
        "video-id": np.array([video for video, _ in rows]),
        "t-start": np.array([event.start for _, event in rows]),
        "t-end": np.array([event.end for _, event in rows]),
        "label": np.array([judge["number"][event.label] for _, event in rows]),
        "score": np.array([event.score for _, event in rows]),
    }


def compare_softnms(repeats: int) -> str:
    """Soft-NMS of many candidates, the best hundred of all classes."""
    segments, scores, labels = random_candidates(CANDIDATES, CLASSES)

    def ours() -> Tensor:
        return multiclass_soft_nms(
            segments, scores, labels, sigma=SIGMA, min_score=MIN_SCORE, max_total=KEPT
        )[1]

    def theirs() -> Tensor:
        kept: Tensor = batched_nms(
            segments, scores, labels, HARD_IOU, MIN_SCORE, KEPT, sigma=SIGMA, voting_thresh=0.0
        )[1]
        return kept

    one, other = in_turns(ours, theirs, repeats * 2)
    near = (one.answer - other.answer).abs().max()
    kind = "compiled" if HAS_CPP_NMS else "in Python"
    return line(
        f"Soft-NMS of {CANDIDATES} in {CLASSES} classes",
        one,
        other,
        f"scores within {near:.0e}; theirs {kind}",
    )


def compare_step(batch: Batch, peer: Any, repeats: int) -> str:
    """Forward, backward and update with AdamW."""
    plan = StepPlan(videos=VIDEOS, steps=STEPS, channels=CHANNELS)
    settings = bench_settings(plan)
    state = start_training(bench_model(plan).train(), settings)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4)
    joined = torch.cat([batch.vision, batch.audio], dim=1)
    videos = [
        {"feats": features, "segments": segments, "labels": labels}
        for features, segments, labels in zip(joined, batch.segments, batch.labels, strict=True)
    ]
    peer.train()

    def theirs() -> float:
        optimizer.zero_grad()
        loss = peer(videos)["final_loss"]
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    one, other = in_turns(lambda: train_step(state, batch, settings), theirs, repeats)
    sizes = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (state.model, peer)]
    return line(
        f"training step of {VIDEOS} x {STEPS}",
        one,
        other,
        f"{sizes[0]:.1f} M and {sizes[1]:.1f} M parameters; not the same work",
    )


def line(work: str, ours: Side, theirs: Side, answer: str) -> str:
    """A row of the table; CPU seconds."""
    ratio = theirs.cpu / ours.cpu
    return f"{work:<34} {ours.cpu:>9.4f} {theirs.cpu:>13.4f} {ratio:>7.1f}  {answer}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = StepPlan()
    batch = PlantedVideos(Sizes(plan.vision_dim, plan.audio_dim, CLASSES)).batch([STEPS] * VIDEOS)
    peer = peer_model()
    print(f"{machine_line()}, {load_line()}; actionformer {actionformer.__version__}")
    print(f"{'CPU seconds':<34} {'ours':>9} {'actionformer':>13} {'ratio':>7}")
    print(compare_assignment(batch, peer, options.repeats), flush=True)
    print(compare_softnms(options.repeats), flush=True)
    print(compare_step(batch, peer, options.repeats), flush=True)
    print(compare_map(options.annotations, options.repeats), flush=True)


if __name__ == "__main__":
    main()
