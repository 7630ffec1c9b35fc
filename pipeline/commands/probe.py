"""Show what a media file holds and how its clock runs.

Times are seconds on the container clock: zero is the earliest start of a picture or sound stream.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import MediaError

if TYPE_CHECKING:
    from extractors.media.info import MediaInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


def execute(args: argparse.Namespace) -> int:
    """Probe each file; files that cannot be read are reported and the others still shown."""
    from extractors.media.probe import probe

    failed = 0
    for path in args.files:
        try:
            info = probe(path)
        except MediaError as error:
            failed += 1
            if args.json:
                print(json.dumps({"path": str(path), "error": str(error)}))
            else:
                print(f"pipeline: {error}", file=sys.stderr)
            continue
        print(json.dumps(describe(info)) if args.json else render(info))
    return 1 if failed else 0


def describe(info: MediaInfo) -> dict[str, Any]:
    """What `probe` found, as plain values; rates as exact fractions."""
    video, audio = info.video, info.audio
    return {
        "path": str(info.path),
        "container": info.container,
        "bytes": info.size_bytes,
        "duration": info.duration,
        "clock_offset": info.clock_offset,
        "broken_off": info.broken_off,
        "open_end": info.open_end,
        "video": None
        if video is None
        else {
            "codec": video.codec,
            "width": video.width,
            "height": video.height,
            "rotation": video.rotation,
            "rate": str(video.rate),
            "variable_rate": video.variable_rate,
            "start": video.start,
            "duration": video.duration,
        },
        "audio": None
        if audio is None
        else {
            "codec": audio.codec,
            "sample_rate": audio.sample_rate,
            "channels": audio.channels,
            "start": audio.start,
            "duration": audio.duration,
        },
    }


def render(info: MediaInfo) -> str:
    """The same for people."""
    lines = [
        f"{info.path}",
        f"  container  {info.container}, {info.size_bytes:,} bytes, {_seconds(info.duration)}",
    ]
    if info.video is None:
        lines.append("  picture    none: events are looked for in the sound only")
    else:
        video = info.video
        kind = "variable rate, about" if video.variable_rate else "constant"
        turned = f", rotated {video.rotation} degrees" if video.rotation else ""
        lines.append(
            f"  picture    {video.codec}, {video.width}x{video.height}{turned}, {kind} "
            f"{float(video.rate):.3f} frames/s, {_span(video.start, video.duration)}"
        )
    if info.audio is None:
        lines.append("  sound      none: events are looked for in the picture only")
    else:
        audio = info.audio
        lines.append(
            f"  sound      {audio.codec}, {audio.sample_rate} Hz, {audio.channels} channel"
            f"{'s' if audio.channels != 1 else ''}, {_span(audio.start, audio.duration)}"
        )
    if info.clock_offset:
        lines.append(f"  clock      the file's own timestamps start at {info.clock_offset:.3f} s")
    if info.broken_off:
        lines.append(f"  end        the file was broken off: {info.broken_off}")
    elif info.open_end:
        lines.append(f"  end        the file seems to end within {info.open_end}")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "unknown duration" if not value else f"{value:.3f} s"


def _span(start: float, duration: float | None) -> str:
    if not duration:
        return f"from {start:.3f} s, unknown duration"
    return f"{start:.3f} to {start + duration:.3f} s"
