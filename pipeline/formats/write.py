"""Save events in a format of the table."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import TextIO

from pipeline.core.atomic import write_text
from pipeline.core.errors import UsageError
from pipeline.core.events import Detections
from pipeline.formats.gather import MARK
from pipeline.formats.table import FORMATS, Writer, format_writer

# File systems take names of 255 bytes: what is added to the video's own must fit in, too.
ROOM_BYTES = 255 - len(MARK) - max(len(writer.suffix) for writer in FORMATS.values())
# No name can hold these; the other half characters stand for bytes that are no UTF-8.
_UNNAMEABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def write(detections: Sequence[Detections], format: str, destination: Path | TextIO) -> None:
    """Write the events of some videos as one file.

    Args:
        detections: One entry a video.
        format: A name of `FORMATS`.
        destination: The file, written atomically, or an open text stream.

    Raises:
        UsageError: Unknown format; several videos in a format that holds one; a folder.
    """
    writer = format_writer(format)
    if len(detections) > 1 and not writer.many:
        raise UsageError(
            f"one {format} file holds one video, not {len(detections)}",
            hint="give a folder as the output, for one file a video",
        )
    if isinstance(destination, PurePath):
        if destination.is_dir():
            raise UsageError(
                f"{destination} is a folder", hint="give the name of a file, or use write_folder"
            )
        write_text(destination, _text(writer, detections, destination))
    else:
        destination.write(_text(writer, detections, None))


def write_folder(
    detections: Sequence[Detections], formats: Sequence[str], folder: Path
) -> tuple[Path, ...]:
    """Write one file a video and format into ``folder``, which is made when missing.

    A file carries its video's name, ``.events`` and the format's suffix: ``dog.mp4`` gives
    ``dog.events.srt``, which players find, and which is never the subtitle file that came with
    the film. Where two videos share a name, the second also shows its own suffix,
    and after that a number: nothing is overwritten within one call.

    Args:
        detections: One entry a video.
        formats: Names of `FORMATS`.
        folder: Where the files go.

    Returns:
        The files, by format, then video.

    Raises:
        UsageError: Unknown format; ``folder`` is a file.
    """
    writers = [format_writer(name) for name in formats]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", hint="give another output folder")
    names = output_names([entry.video for entry in detections])
    written = []
    for writer in writers:
        for name, entry in zip(names, detections, strict=True):
            path = folder / f"{name}{MARK}{writer.suffix}"
            write_text(path, _text(writer, [entry], path))
            written.append(path)
    return tuple(written)


def output_names(videos: Sequence[str]) -> list[str]:
    """A file name without suffix for each video; names that differ only in case clash."""
    taken: set[str] = set()
    names = []
    for video in videos:
        path = PurePath(_UNNAMEABLE.sub("�", video))
        stem, full = path.stem or "video", path.name or "video"
        options = chain(
            (_shortened(stem), _shortened(full)),
            (_shortened(full, end=f"-{number}") for number in range(2, len(videos) + 2)),
        )
        name = next(option for option in options if option.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _shortened(name: str, *, end: str = "") -> str:
    """The name with ``end`` behind it, cut before that to what file systems take."""
    kept = name[:ROOM_BYTES]
    while len(os.fsencode(kept + end)) > ROOM_BYTES:
        kept = kept[:-1]
    return kept + end


def _text(writer: Writer, detections: Sequence[Detections], destination: Path | None) -> str:
    """Rendered text; bytes of a file name that are no UTF-8 appear as backslash escapes."""
    text = writer.render(detections, destination)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
