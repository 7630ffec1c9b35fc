"""Measure on this machine.

speed [FILE]    seconds per video second: decode alone, encoders alone, the whole extraction
memory          peak memory of a 2-minute and of a 2-hour file
sounds FOLDER   share of real sounds (ESC-10, one folder per class) that YAMNet names right
clips FOLDER    the agreement detector on labelled real clips, clip by clip
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


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
    sounds = kinds.add_parser("sounds", help="recognition of real sounds")
    sounds.add_argument("folder", type=Path, help="one subfolder of sound files per ESC-10 class")
    agreement = kinds.add_parser("agreement", help="calibration of the agreement detector")
    agreement.add_argument("folder", type=Path, help="the kit of real sounds and pictures")
    clips = kinds.add_parser("clips", help="the agreement detector on real labelled clips")
    clips.add_argument("folder", type=Path, help="the clips, with their annotation files")


def execute(args: argparse.Namespace) -> int:
    """Run one benchmark and print its table."""
    run = {
        "speed": _speed,
        "memory": _memory,
        "sounds": _sounds,
        "clips": _clips,
        "agreement": _agreement,
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
    from workflows.memory import measure_memory

    report = measure_memory(
        short=args.short, long=args.long, backbone=args.backbone, reader=args.reader
    )
    print(report.format_table())
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
