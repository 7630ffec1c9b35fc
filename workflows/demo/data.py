"""Make the demo's data set: short labelled films and one long one, as H.264 and AAC in mp4.

Pictures and sound are made with NumPy and written through the ffmpeg binary; one seed decides
everything. The annotations are in the format of ActivityNet and UnAV-100 and exact: pictures
change on frame times, sounds on samples, and an event is the time in which a class is both.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extractors.media.ffmpeg import ffmpeg_binary
from pipeline.core.atomic import atomic_path, write_json
from pipeline.core.errors import EnvironmentFault
from workflows.demo.scenes import PICTURE_SIZE, render_frames
from workflows.demo.script import LABELS, PICTURE_RATE, Deck, Film, write_film
from workflows.demo.sounds import SOUND_RATE, render_sound

VERSION = "demo-2"  # raised when the films change, so that an older folder is made anew
LONG_NAME = "long"


@dataclass(frozen=True, slots=True)
class DemoSize:
    """How much is made.

    Attributes:
        train: Number of clips to learn from.
        validation: Number of clips for choosing the best epoch.
        test: Number of clips to measure on, beside the long film.
        long_seconds: Length of the one long film, which is in the test subset; 0 for none.
        clip_seconds: Length of every other film.
    """

    train: int = 16
    validation: int = 3
    test: int = 3
    long_seconds: float = 180.0
    clip_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class DemoData:
    """Where the data set lies.

    Attributes:
        videos: Folder of the mp4 files.
        annotations: The JSON file, keyed by the file names below ``videos``.
        long_video: The long film.
        seconds: Length of all films together.
        events: Number of annotated events.
    """

    videos: Path
    annotations: Path
    long_video: Path
    seconds: float
    events: int


def make_demo_data(
    folder: Path,
    *,
    seed: int = 0,
    size: DemoSize | None = None,
    progress: Callable[[str], None] | None = None,
) -> DemoData:
    """Write the films and their annotations below ``folder``; films that exist are kept.

    Args:
        folder: Receives ``videos/*.mp4`` and ``annotations.json``.
        seed: Decides every film.
        size: How many films; the default is made for the demo's ten minutes.
        progress: Called with the name of each film before it is made.

    Raises:
        EnvironmentFault: The ffmpeg binary is missing or fails to encode.
    """
    size = size or DemoSize()
    films = write_films(seed, size)
    videos = folder / "videos"
    recipe = {"version": VERSION, "seed": seed, "size": str(size)}
    fresh = _read(folder / "made.json") != recipe
    if fresh:
        _remove_films(folder)
        write_json(folder / "annotations.json", describe_events(films))
        write_json(folder / "made.json", recipe)
    for film in films:
        target = videos / f"{film.name}.mp4"
        if not target.exists():
            if progress:
                progress(film.name)
            encode_film(film, target)
    return DemoData(
        videos=videos,
        annotations=folder / "annotations.json",
        long_video=videos / f"{LONG_NAME}.mp4",
        seconds=sum(film.duration for film in films),
        events=sum(len(film.events()) for film in films),
    )


def write_films(seed: int, size: DemoSize) -> list[Film]:
    """The scripts of all films; each subset has a deck and a stream of chance of its own."""
    films = []
    plan = (("train", size.train), ("validation", size.validation), ("test", size.test))
    for index, (subset, count) in enumerate(plan):
        rng = np.random.default_rng([seed, index])
        deck = Deck(rng)
        for number in range(count):
            name = f"{subset}_{number:02d}"
            films.append(
                write_film(name, subset=subset, duration=size.clip_seconds, deck=deck, rng=rng)
            )
        if subset == "test" and size.long_seconds > 0:
            films.append(
                write_film(LONG_NAME, subset=subset, duration=size.long_seconds, deck=deck, rng=rng)
            )
    return films


def describe_events(films: Iterable[Film]) -> dict[str, Any]:
    """The ActivityNet-style annotation file as plain values; times in seconds."""
    database = {}
    for film in films:
        rows = [
            {
                "segment": [round(start, 6), round(end, 6)],
                "label": label,
                "label_id": LABELS.index(label),
            }
            for start, end, label in film.events()
        ]
        database[f"{film.name}.mp4"] = {
            "duration": film.duration,
            "subset": film.subset,
            "annotations": rows,
        }
    return {"version": VERSION, "database": database}


def encode_film(film: Film, target: Path) -> None:
    """Render one film and write it as H.264 and AAC in mp4.

    Raises:
        EnvironmentFault: ffmpeg fails; its last words are in the message.
    """
    with (
        tempfile.TemporaryDirectory(prefix="pipeline-demo-") as scratch,
        atomic_path(target) as temporary,
    ):
        sound = Path(scratch) / "sound.wav"
        _write_wave(sound, film)
        command = [ffmpeg_binary(), *_encoder_arguments(sound), str(temporary)]
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages
            )
            try:
                _feed(process, film)
            finally:
                code = process.wait()
            if code != 0:
                messages.seek(0)
                words = messages.read().decode("utf-8", "replace").strip().splitlines()
                raise EnvironmentFault(
                    f"ffmpeg could not encode {target}: {words[-1] if words else f'exit {code}'}",
                    hint="run `pipeline doctor`",
                )


def _feed(process: subprocess.Popen[bytes], film: Film) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for frame in render_frames(film):
                pipe.write(frame.tobytes())
    except BrokenPipeError:
        pass  # ffmpeg has given up; its exit code and messages say why


def _encoder_arguments(sound: Path) -> list[str]:
    """One thread and bit-exact flags, so that the same seed gives the same file."""
    size = f"{PICTURE_SIZE}x{PICTURE_SIZE}"
    text = (
        f"-hide_banner -loglevel error -nostdin -y -f rawvideo -pix_fmt rgb24 -s {size} "
        f"-r {PICTURE_RATE} -i pipe:0 -i SOUND -map 0:v -map 1:a -threads 1 -c:v libx264 "
        "-preset veryfast -crf 20 -pix_fmt yuv420p -c:a aac -b:a 96k "
        "-fflags +bitexact -flags:v +bitexact -flags:a +bitexact -movflags +faststart -f mp4"
    )
    return [str(sound) if word == "SOUND" else word for word in text.split()]


def _write_wave(path: Path, film: Film) -> None:
    samples = np.round(render_sound(film) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as stream:  # a scratch file that only ffmpeg reads
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(SOUND_RATE)
        stream.writeframes(samples.tobytes())


def _remove_films(folder: Path) -> None:
    """Delete the films of another seed, size or version: those that its annotations name."""
    for name in _read(folder / "annotations.json").get("database", {}):
        (folder / "videos" / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object from disk; empty when there is none, or when it is not ours."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
