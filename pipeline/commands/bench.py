"""Measure on this machine.

speed [FILE]    seconds per video second: decode alone, encoders alone, the whole extraction
memory          peak memory of a 2-minute and of a 2-hour file
sounds FOLDER   share of real sounds (ESC-10, one folder per class) that YAMNet names right
clips FOLDER    the agreement detector on labelled real clips, clip by clip
train           a training step of UnAV-100's size: CPU seconds, peak memory, label assignment
map [FILE]      mean average precision of 2,167 videos with 100 predictions each
softnms         Soft-NMS of 12,000 candidates in 100 classes
precision       losses in float32, in bfloat16 and compiled, iteration by iteration
loading         training steps from a feature store and from memory
epoch           an epoch of UnAV-100's size, for GPUs
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pipeline.recipe import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    speed = kinds.add_parser("speed", help="seconds per video second, part by part")
    speed.add_argument(
        "file", nargs="?", type=Path, help="a media file; default: 60 s made here, 640x360"
    )
    speed.add_argument("--backbone", default="lite")
    speed.add_argument("--device", default="auto")
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
    agreement = kinds.add_parser("agreement", help="calibration of the agreement detector")
    agreement.add_argument("folder", type=Path, help="the kit of real sounds and pictures")
    clips = kinds.add_parser("clips", help="the agreement detector on real labelled clips")
    clips.add_argument("folder", type=Path, help="the clips, with their annotation files")
    _add_training(kinds)


def _add_training(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of what measures training and evaluation."""
    train = kinds.add_parser("train", help="a training step of UnAV-100's size")
    train.add_argument("--batch", type=int, default=16, metavar="VIDEOS")
    train.add_argument("--steps", type=int, default=256, help="length of the videos")
    train.add_argument("--channels", type=int, default=512, help="width of the network")
    train.add_argument("--iterations", type=int, default=3)
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
    loading.add_argument("--folder", type=Path, help="where the store is made for the while")
    epoch = kinds.add_parser("epoch", help="time of an epoch of UnAV-100's size")
    epoch.add_argument("--device", default="auto")
    epoch.add_argument("--iterations", type=int, default=30)
    epoch.add_argument("--no-compile", action="store_true", help="leave out what compiles")


def execute(args: argparse.Namespace) -> int:
    """Run one benchmark and print its table."""
    run = {
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
    }[args.kind]
    return run(args)


def _speed(args: argparse.Namespace) -> int:
    from workflows.bench import make_test_video, measure_speed

    with tempfile.TemporaryDirectory() as folder:
        path = args.file
        if path is None:
            path = Path(folder) / "test_640x360_25fps_60s.mp4"
            make_test_video(path, seconds=60)
        report = measure_speed(path, backbone=args.backbone, device=args.device)
    print(report.format_table())
    return 0


def _memory(args: argparse.Namespace) -> int:
    from workflows.memory import MemoryTask, measure_memory

    task = MemoryTask(args.backbone, args.reader, detect=args.detect, model=args.model)
    print(measure_memory(task, short=args.short, long=args.long).format_table())
    return 0


def _sounds(args: argparse.Namespace) -> int:
    from workflows.sounds import measure_sounds

    print(measure_sounds(args.folder).format_table())
    return 0


def _clips(args: argparse.Namespace) -> int:
    from workflows.clips import measure_clips

    print(measure_clips(args.folder).format_table())
    return 0


def _agreement(args: argparse.Namespace) -> int:
    from workflows.semireal import measure_semireal

    print(measure_semireal(args.folder).format_table())
    return 0


def _train(args: argparse.Namespace) -> int:
    from workflows.bench_train import StepPlan, measure_step

    plan = StepPlan(
        videos=args.batch,
        steps=args.steps,
        iterations=args.iterations,
        channels=args.channels,
        precision=args.precision,
        compile=args.compile,
        threads=args.threads,
    )
    print(measure_step(plan).format_table())
    return 0


def _map(args: argparse.Namespace) -> int:
    from workflows.bench_eval import measure_map

    print(measure_map(args.annotations, subset=args.subset).format_table())
    return 0


def _softnms(args: argparse.Namespace) -> int:
    from workflows.bench_eval import measure_softnms

    print(measure_softnms(candidates=args.candidates, max_total=args.keep).format_table())
    return 0


def _precision(args: argparse.Namespace) -> int:
    from extractors.device import select_device
    from workflows.bench_precision import measure_precision

    report = measure_precision(
        _ways(args),
        iterations=args.iterations,
        channels=args.channels,
        device=str(select_device(args.device)),
    )
    print(report.format_table())
    return 0


def _loading(args: argparse.Namespace) -> int:
    from workflows.bench_loading import measure_loading

    report = measure_loading(
        videos=args.videos, iterations=args.iterations, widths=args.widths, folder=args.folder
    )
    print(report.format_table())
    return 0


def _epoch(args: argparse.Namespace) -> int:
    from extractors.device import select_device
    from workflows.bench_epoch import measure_epoch

    device = str(select_device(args.device))
    print(measure_epoch(device=device, iterations=args.iterations, ways=_ways(args)).format_table())
    return 0


def _ways(args: argparse.Namespace) -> list[str]:
    from workflows.bench_train import WAYS

    return [name for name, (_, compiles) in WAYS.items() if not (compiles and args.no_compile)]
