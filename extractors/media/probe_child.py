"""The process that looks at files for others; see `extractors.media.probe_apart`.

Started as ``python -m extractors.media.probe_child``. Each line on standard input is a path as
JSON; the answer is a line of JSON on standard output: ``{"info": ...}`` or
``{"error": [reason, hint]}``. Before the first of them stands `READY`: what ends it earlier is not
the file. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from extractors.media.info import AudioStream, MediaInfo, VideoStream
from extractors.media.probe import probe
from pipeline.core.errors import MediaError

READY = b"ready\n"


def main() -> int:
    """Answer until nobody asks any more."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    channel.write(READY)
    channel.flush()
    for line in sys.stdin.buffer:
        channel.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
        channel.flush()
    return 0


def _answer(path: str) -> dict[str, Any]:
    try:
        return {"info": info_to_json(probe(path))}
    except MediaError as error:
        return {"error": [error.reason, error.hint]}


def info_to_json(info: MediaInfo) -> dict[str, Any]:
    """What a file holds, as plain values: paths and fractions as text."""
    return {
        name: asdict(value, dict_factory=_plain) if name in ("video", "audio") and value else value
        for name, value in _plain(
            (field, getattr(info, field)) for field in MediaInfo.__dataclass_fields__
        ).items()
    }


def _plain(pairs: Any) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Fraction | Path) else value for name, value in pairs
    }


def info_from_json(value: dict[str, Any]) -> MediaInfo:
    """Inverse of `info_to_json`."""
    video, audio = value["video"], value["audio"]
    if video:
        fractions = {name: Fraction(video[name]) for name in ("rate", "time_base")}
        video = VideoStream(**{**video, **fractions})
    return MediaInfo(
        **{
            **value,
            "path": Path(value["path"]),
            "video": video,
            "audio": AudioStream(**audio) if audio else None,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
