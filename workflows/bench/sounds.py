"""How well the sound encoder of a backbone names real sounds: the ten classes of ESC-10.

Source of the classes: Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015.
The names on AudioSet's side are our reading of what each class means there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.media.audio import open_audio
from extractors.media.probe import probe
from extractors.registry import load_backbone
from extractors.spec import Backbone
from pipeline.core.errors import NothingMatchedError
from workflows.bench.record import Figure

FIRST = 3  # a clip counts as named when its class is among this many best names


@dataclass(frozen=True, slots=True)
class Meaning:
    """An ESC class in AudioSet's words.

    Attributes:
        names: AudioSet names that say the class.
        broader: Names above them in AudioSet's ontology: as true of the sound, but less said.
    """

    names: tuple[str, ...]
    broader: tuple[str, ...] = ()


ESC_10: dict[str, Meaning] = {
    "dog": Meaning(
        ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
        ("Animal", "Domestic animals, pets"),
    ),
    "rooster": Meaning(
        ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
        ("Animal", "Livestock, farm animals, working animals", "Fowl"),
    ),
    "rain": Meaning(("Rain", "Raindrop", "Rain on surface"), ("Water",)),
    "sea_waves": Meaning(("Ocean", "Waves, surf"), ("Water",)),
    "crackling_fire": Meaning(("Fire", "Crackle")),
    "crying_baby": Meaning(("Baby cry, infant cry", "Crying, sobbing")),
    "sneezing": Meaning(("Sneeze",)),
    "clock_tick": Meaning(("Clock", "Tick", "Tick-tock"), ("Mechanisms",)),
    "helicopter": Meaning(("Helicopter",), ("Vehicle", "Aircraft")),
    "chainsaw": Meaning(("Chainsaw",), ("Engine", "Light engine (high frequency)")),
}


@dataclass(frozen=True, slots=True)
class SoundRow:
    """One ESC class.

    Attributes:
        category: ESC name.
        clips: Clips looked at.
        named: Clips with the class among the first three of all names.
        named_below: The same when broader names do not take a place.
        heard: The names most often among the first three.
    """

    category: str
    clips: int
    named: int
    named_below: int
    heard: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SoundReport:
    """Rows of all classes that were found.

    Attributes:
        encoder: Name of the sound encoder.
        rows: One per class.
    """

    encoder: str
    rows: tuple[SoundRow, ...]

    @property
    def named(self) -> float:
        """Share of clips whose class is among the first three of all names."""
        return sum(row.named for row in self.rows) / sum(row.clips for row in self.rows)

    @property
    def named_below(self) -> float:
        """The same when names broader than the class do not take a place."""
        return sum(row.named_below for row in self.rows) / sum(row.clips for row in self.rows)

    def figures(self) -> list[Figure]:
        """The report for machines."""
        figures = [
            Figure("all names", self.named, "1", "higher"),
            Figure("specific names", self.named_below, "1", "higher"),
        ]
        for row in self.rows:
            share = row.named_below / row.clips
            figures.append(Figure(f"{row.category}, specific names", share, "1", "higher"))
            figures.append(Figure(f"{row.category}, clips", row.clips, "1", "neither"))
        return figures

    def format_table(self) -> str:
        """The report as text."""
        lines = [
            f"{self.encoder}: share of clips whose class is among the first {FIRST} names, by the "
            "mean score of a clip's windows",
            "all names: of all names; specific: names above the class in AudioSet's ontology "
            "(dog: Animal) take no place",
            "",
            f"{'class':<15} {'clips':>5} {'all names':>9} {'specific':>9}  most often heard",
        ]
        lines += [
            f"{row.category:<15} {row.clips:>5} {row.named / row.clips:>9.3f} "
            f"{row.named_below / row.clips:>9.3f}  {'; '.join(row.heard)}"
            for row in self.rows
        ]
        clips = sum(row.clips for row in self.rows)
        lines.append(f"{'all':<15} {clips:>5} {self.named:>9.3f} {self.named_below:>9.3f}")
        return "\n".join(lines)


def measure_sounds(folder: Path, *, backbone: str = "lite", device: str = "auto") -> SoundReport:
    """Name all clips of the ESC-10 classes.

    Args:
        folder: One subfolder of sound files per class, under its ESC name.
        backbone: Backbone whose sound encoder knows AudioSet's names.
        device: Where it runs.

    Raises:
        NothingMatchedError: No such subfolder, or no files in them.
        MediaError: A file cannot be read.
    """
    found = {name: _files(folder / name) for name in ESC_10}
    if not any(found.values()):
        raise NothingMatchedError(
            f"{folder} holds no clips of the ESC-10 classes",
            hint=f"give a folder with subfolders such as {', '.join(list(ESC_10)[:3])}",
        )
    loaded = load_backbone(backbone, device=device)
    rows = tuple(_measure(loaded, name, files) for name, files in found.items() if files)
    return SoundReport(loaded.audio.spec.name, rows)


def clip_scores(backbone: Backbone, path: Path) -> NDArray[np.float32]:
    """Mean class scores over the windows of a sound file, (classes,).

    Raises:
        MediaError: The file cannot be read.
    """
    windows = _windows(backbone, path)
    scores = backbone.audio.embed(windows).scores
    if scores is None:
        raise ValueError(f"{backbone.audio.spec.name} knows no classes")
    mean: NDArray[np.float32] = scores.mean(axis=0)
    return mean


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []


def _windows(backbone: Backbone, path: Path) -> NDArray[np.float32]:
    """All windows of a file, (N, samples); a short file is one window with silence behind."""
    grid = backbone.spec.grid
    with open_audio(probe(path), sample_rate=grid.sample_rate) as reader:
        blocks = list(reader)
    sound = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    missing = max(0, grid.window_samples - len(sound))
    sound = np.pad(sound, (0, missing))
    windows = np.lib.stride_tricks.sliding_window_view(sound, grid.window_samples)
    return np.ascontiguousarray(windows[:: grid.stride_samples])


def _measure(backbone: Backbone, category: str, files: list[Path]) -> SoundRow:
    meaning = ESC_10[category]
    named = named_below = 0
    heard: dict[str, int] = {}
    for path in files:
        order = list(_ranked(backbone, clip_scores(backbone, path)))
        best = order[:FIRST]
        specific = [name for name in order if name not in meaning.broader][:FIRST]
        named += bool(set(best) & set(meaning.names))
        named_below += bool(set(specific) & set(meaning.names))
        for name in best:
            heard[name] = heard.get(name, 0) + 1
    often = sorted(heard, key=lambda name: -heard[name])[:FIRST]
    return SoundRow(category, len(files), named, named_below, tuple(often))


def _ranked(backbone: Backbone, scores: NDArray[np.float32]) -> Iterator[str]:
    return (backbone.audio.class_names[index] for index in np.argsort(-scores, kind="stable"))
