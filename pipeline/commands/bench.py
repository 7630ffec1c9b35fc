"""Measure on this machine.

speed [FILE]    decoding, nets, writing alone and the whole extraction; times real time; memory
memory          peak memory of a 2-minute and of a 2-hour file
sounds FOLDER   share of real sounds (ESC-10, one folder per class) that YAMNet names right
clips FOLDER    a training-free detector on labelled real clips, clip by clip
train           a training step of UnAV-100's size: CPU seconds, peak memory, label assignment
map [FILE]      mean average precision of 2,167 videos with 100 predictions each
softnms         Soft-NMS of 12,000 candidates in 100 classes
precision       losses in float32, in bfloat16 and compiled, iteration by iteration
loading         training steps from a feature store and from memory
busy            how much of the time a GPU computes while videos are extracted with I3D RGB
epoch           an epoch of UnAV-100's size, for GPUs
backbones       nets of the backbones at random weights: rate, memory, nearness to float32 and share
                of the device's matrix rate, in each precision
plan            what a store of many finished videos costs a run before its first video
scale S P       workers, storage and files for 1, 1,000 and 1,000,000 hours of video, worked out
                from saved runs of speed and plan; --windows-per-second for another device
compare A B     two runs that were saved with --json: the ratio of each figure; 1 if one is worse

Every kind takes --json FILE, which saves its figures with the machine, versions and commit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.recipe import METHODS, PRECISIONS

if TYPE_CHECKING:
    from workflows.bench.record import BenchReport

# Arguments that say nothing about what is measured, at the most how surely; `device` is told by the
# machine's facts.
ASIDE = ("command", "kind", "execute", "debug", "json", "scratch", "device", "rounds")
ON_CPU = (
    "train",
    "map",
    "softnms",
    "loading",
    "plan",
    "scale",
)  # kinds that never use another device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    speed = kinds.add_parser("speed", help="extraction, part by part")
    speed.add_argument(
        "file", nargs="?", type=Path, help="a media file; default: 60 s made here, 640x360"
    )
    speed.add_argument("--backbone", default="lite")
    speed.add_argument("--device", default="auto")
    speed.add_argument(
        "--rounds", type=int, default=3, help="timings of each part; medians are told (default: 3)"
    )
    memory = kinds.add_parser("memory", help="peak memory of a short and of a long file")
    memory.add_argument("--short", type=float, default=120.0, metavar="SECONDS")
    memory.add_argument("--long", type=float, default=7200.0, metavar="SECONDS")
    memory.add_argument("--backbone", default="lite", help="none measures everything but the nets")
    memory.add_argument("--reader", default="auto", choices=("auto", "decord", "ffmpeg"))
    memory.add_argument("--detect", action="store_true", help="detect events, not just extract")
    memory.add_argument(
        "--model", type=Path, metavar="CHECKPOINT", help="detect with this; it names its backbone"
    )
    sounds = kinds.add_parser("sounds", help="recognition of real sounds")
    sounds.add_argument("folder", type=Path, help="one subfolder of sound files per ESC-10 class")
    sounds.add_argument("--backbone", default="lite", help="lite or lite-google")
    agreement = kinds.add_parser("agreement", help="calibration of the agreement detector")
    agreement.add_argument("folder", type=Path, help="the kit of real sounds and pictures")
    agreement.add_argument("--method", default="agreement", choices=("agreement", "clasp"))
    clips = kinds.add_parser("clips", help="the agreement detector on real labelled clips")
    clips.add_argument("folder", type=Path, help="the clips, with their annotation files")
    clips.add_argument("--method", help="training-free detector, as for `pipeline detect`")
    _add_training(kinds)
    _add_busy(kinds)
    _add_backbones(kinds)
    _add_scale(kinds)
    for kind in kinds.choices.values():
        kind.add_argument(
            "--json", type=Path, metavar="FILE", help="save the figures, for machines and compare"
        )
    compare = kinds.add_parser("compare", help="two saved runs of one kind")
    compare.add_argument("first", type=Path, metavar="A.json")
    compare.add_argument("second", type=Path, metavar="B.json")
    compare.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="by which a figure may be worse without exit code 1 (default: 0.1)",
    )
    compare.add_argument("--json", action="store_true", help="the comparison as JSON")


def _add_scale(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of what says how costs grow."""
    plan = kinds.add_parser("plan", help="what a large store costs before the first video")
    plan.add_argument("--videos", type=int, default=20_000)
    scale = kinds.add_parser("scale", help="costs of many hours of video, worked out")
    scale.add_argument("speed", type=Path, metavar="SPEED.json", help="a saved run of bench speed")
    scale.add_argument("plan", type=Path, metavar="PLAN.json", help="a saved run of bench plan")
    scale.add_argument(
        "--windows-per-second",
        type=float,
        metavar="R",
        help="steps a second of nets on a device that was not measured",
    )
    scale.add_argument("--clip-seconds", type=float, default=60.0, help="mean length of the files")


def _add_training(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of what measures training and evaluation."""
    train = kinds.add_parser("train", help="a training step of UnAV-100's size")
    train.add_argument("--batch", type=int, default=16, metavar="VIDEOS")
    train.add_argument("--steps", type=int, default=256, help="length of the videos")
    train.add_argument("--channels", type=int, default=512, help="width of the network")
    train.add_argument("--iterations", type=int, default=3)
    train.add_argument("--method", default="loco", choices=METHODS)
    train.add_argument("--precision", default="fp32", choices=PRECISIONS)
    train.add_argument("--compile", action="store_true", help="compile the network before")
    train.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves them alone")
    map_ = kinds.add_parser("map", help="mean average precision of a whole split")
    map_.add_argument(
        "annotations", nargs="?", type=Path, help="true events; default: as many made-up ones"
    )
    map_.add_argument("--subset", default="test")
    softnms = kinds.add_parser("softnms", help="Soft-NMS in many classes")
    softnms.add_argument("--candidates", type=int, default=12_000)
    softnms.add_argument("--keep", type=int, default=100, help="detections kept of a video")
    precision = kinds.add_parser("precision", help="float32, bfloat16 and compiled, side by side")
    precision.add_argument("--iterations", type=int, default=60)
    precision.add_argument("--channels", type=int, default=32)
    precision.add_argument("--device", default="cpu")
    precision.add_argument("--no-compile", action="store_true", help="leave out what compiles")
    loading = kinds.add_parser("loading", help="whether training waits for its data")
    loading.add_argument("--videos", type=int, default=200)
    loading.add_argument("--iterations", type=int, default=8)
    loading.add_argument("--widths", type=int, nargs="+", default=[64, 512], metavar="CHANNELS")
    loading.add_argument(
        "--folder", type=Path, dest="scratch", help="where the store is made for the while"
    )
    epoch = kinds.add_parser("epoch", help="time of an epoch of UnAV-100's size")
    epoch.add_argument("--device", default="auto")
    epoch.add_argument("--iterations", type=int, default=30)
    epoch.add_argument("--no-compile", action="store_true", help="leave out what compiles")


def _add_busy(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of what measures how busy a GPU is."""
    busy = kinds.add_parser("busy", help="how much of the time a GPU computes in extraction")
    busy.add_argument("--device", default="auto")
    busy.add_argument(
        "--batch-ms",
        type=float,
        metavar="MS",
        help="make up a device that takes so long for a batch of 16 windows",
    )
    busy.add_argument("--videos", type=int, default=48)
    busy.add_argument("--seconds", type=float, default=60.0, help="length of each video")
    busy.add_argument("--size", type=int, nargs=2, default=[640, 360], metavar=("W", "H"))
    busy.add_argument("--at-once", type=int, metavar="N", help="as for `pipeline extract`")


def _add_backbones(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of what measures the nets of the backbones."""
    backbones = kinds.add_parser("backbones", help="nets of the backbones in each precision")
    backbones.add_argument("--device", default="auto")
    backbones.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="i3d-rgb, raft, vggish, onepeace-video, onepeace-audio; default: all",
    )
    backbones.add_argument(
        "--precision",
        nargs="+",
        default=["fp32", "bf16", "fp16"],
        metavar="NAME",
        help="fp32, bf16, fp16; default: all",
    )
    backbones.add_argument("--batch", type=int, metavar="N", help="default: that of extraction")
    backbones.add_argument(
        "--windows", type=int, default=8, help="different ones, whose embeddings are compared"
    )
    backbones.add_argument("--seconds", type=float, default=3.0, help="of each timing")
    backbones.add_argument("--tiny", action="store_true", help="small nets: see that all runs")
    backbones.add_argument(
        "--autotune", action="store_true", help="cuDNN tries its kernels; extraction does not"
    )
    backbones.add_argument(
        "--channels-last", action="store_true", help="weights of I3D and RAFT in that order"
    )


def execute(args: argparse.Namespace) -> int:
    """Run one benchmark, print its table, and save its figures where asked."""
    if args.kind == "compare":
        return _compare(args)
    report = KINDS[args.kind](args)
    print(report.format_table())
    if args.json is not None:
        from workflows.bench.record import BenchRecord

        figures = tuple(report.figures())
        BenchRecord(args.kind, task_of(args), figures, device=_device(args)).save(args.json)
    return 0


def task_of(args: argparse.Namespace) -> Mapping[str, Any]:
    """What was measured, as plain values: two runs can be compared where these agree.

    Files and folders count by name alone, so that runs in different places can be compared.
    """
    values = {name: value for name, value in vars(args).items() if name not in ASIDE}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    return value.resolve().name if isinstance(value, Path) else value


def _device(args: argparse.Namespace) -> str:
    """Kind of device that the nets ran on."""
    from extractors.device import select_device

    default = "cpu" if args.kind in ON_CPU else "auto"
    return str(select_device(getattr(args, "device", default)).type)


def _compare(args: argparse.Namespace) -> int:
    from workflows.bench.compare import compare
    from workflows.bench.record import read_record

    comparison = compare(
        read_record(args.first), read_record(args.second), tolerance=args.tolerance
    )
    print(json.dumps(comparison.to_json(), indent=2) if args.json else comparison.format_table())
    return comparison.exit_code


def _speed(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.speed import make_test_video, measure_speed

    with tempfile.TemporaryDirectory() as folder:
        path = args.file
        if path is None:
            path = Path(folder) / "test_640x360_25fps_60s.mp4"
            make_test_video(path, seconds=60)
        return measure_speed(path, backbone=args.backbone, device=args.device, rounds=args.rounds)


def _memory(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.memory import MemoryTask, measure_memory

    task = MemoryTask(args.backbone, args.reader, detect=args.detect, model=args.model)
    return measure_memory(task, short=args.short, long=args.long)


def _sounds(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.sounds import measure_sounds

    return measure_sounds(args.folder, backbone=args.backbone)


def _clips(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.clips import measure_clips
    from workflows.detection.run import load_detector

    detector = load_detector(method=args.method)
    return measure_clips(args.folder, detector=detector)


def _agreement(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.semireal import measure_semireal

    return measure_semireal(args.folder, method=args.method)


def _train(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.train import StepPlan, measure_step

    plan = StepPlan(
        videos=args.batch,
        steps=args.steps,
        iterations=args.iterations,
        channels=args.channels,
        precision=args.precision,
        compile=args.compile,
        threads=args.threads,
        method=args.method,
    )
    return measure_step(plan)


def _map(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.eval import measure_map

    return measure_map(args.annotations, subset=args.subset)


def _softnms(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.eval import measure_softnms

    return measure_softnms(candidates=args.candidates, max_total=args.keep)


def _precision(args: argparse.Namespace) -> BenchReport:
    from extractors.device import select_device
    from workflows.bench.precision import measure_precision

    return measure_precision(
        _ways(args),
        iterations=args.iterations,
        channels=args.channels,
        device=str(select_device(args.device)),
    )


def _loading(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.loading import measure_loading

    return measure_loading(
        videos=args.videos, iterations=args.iterations, widths=args.widths, folder=args.scratch
    )


def _epoch(args: argparse.Namespace) -> BenchReport:
    from extractors.device import select_device
    from workflows.bench.epoch import measure_epoch

    device = str(select_device(args.device))
    return measure_epoch(device=device, iterations=args.iterations, ways=_ways(args))


def _busy(args: argparse.Namespace) -> BenchReport:
    from extractors.device import select_device
    from workflows.bench.busy import BusyTask, measure_busy

    width, height = args.size
    task = BusyTask(
        select_device(args.device),
        batch_ms=args.batch_ms,
        videos=args.videos,
        seconds=args.seconds,
        size=(width, height),
        at_once=args.at_once,
    )
    return measure_busy(task)


def _backbones(args: argparse.Namespace) -> BenchReport:
    from extractors.device import select_device
    from workflows.bench.backbones import BackboneTask, measure_backbones

    task = BackboneTask(
        select_device(args.device),
        only=tuple(args.only),
        precisions=tuple(args.precision),
        batch=args.batch,
        windows=args.windows,
        seconds=args.seconds,
        tiny=args.tiny,
        autotune=args.autotune,
        channels_last=args.channels_last,
    )
    return measure_backbones(task, tell=lambda line: print(line, file=sys.stderr, flush=True))


def _plan(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.plan import measure_plan

    return measure_plan(args.videos)


def _scale(args: argparse.Namespace) -> BenchReport:
    from workflows.bench.record import read_record
    from workflows.bench.scale import work_out

    return work_out(
        read_record(args.speed),
        read_record(args.plan),
        steps_per_second=args.windows_per_second,
        clip_seconds=args.clip_seconds,
    )


def _ways(args: argparse.Namespace) -> list[str]:
    from workflows.bench.train import WAYS

    return [name for name, (_, compiles) in WAYS.items() if not (compiles and args.no_compile)]


KINDS: Mapping[str, Callable[[argparse.Namespace], BenchReport]] = {
    "speed": _speed,
    "memory": _memory,
    "sounds": _sounds,
    "clips": _clips,
    "agreement": _agreement,
    "train": _train,
    "map": _map,
    "softnms": _softnms,
    "precision": _precision,
    "loading": _loading,
    "epoch": _epoch,
    "busy": _busy,
    "backbones": _backbones,
    "plan": _plan,
    "scale": _scale,
}
