"""The committed table of classes that the picture net and the sound net can both name.

Shapes: T steps, K classes of a net, C joint classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.core.errors import ConfigError

TABLE = "joint_classes.yaml"
VERSION = 1


@dataclass(frozen=True, slots=True)
class JointClass:
    """One row of the table.

    Attributes:
        label: UnAV-100's name of the class, or VGGSound's, or ours.
        audio: Indices of the sound net's classes that name it.
        vision: Indices of the picture net's classes that show it.
        why: Why these.
    """

    label: str
    audio: tuple[int, ...]
    vision: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class JointTable:
    """All rows.

    Attributes:
        classes: The C joint classes.
        unknown: UnAV-100 classes that the nets cannot know together, and why.
        vision_classes: K of the picture net.
    """

    classes: tuple[JointClass, ...]
    unknown: Mapping[str, str]
    vision_classes: int

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the joint classes."""
        return tuple(row.label for row in self.classes)

    @cached_property
    def vision_shares(self) -> NDArray[np.float32]:
        """(C,) share of the picture net's classes that belong to each joint class.

        It is the probability that a net which knows nothing gives to the joint class.
        """
        sizes = np.array([len(row.vision) for row in self.classes])
        return (sizes / self.vision_classes).astype(np.float32)

    def audio_probabilities(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """(T, K) independent sound scores to (T, C): the best of each joint class's names."""
        names = np.concatenate([row.audio for row in self.classes])
        first = np.cumsum([0, *(len(row.audio) for row in self.classes[:-1])])
        return np.maximum.reduceat(scores[:, names].astype(np.float32), first, axis=1)

    def vision_probabilities(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """(T, K) exclusive picture scores (softmax) to (T, C): their sum in each joint class."""
        return np.minimum(scores.astype(np.float32) @ self._membership, 1.0)

    @cached_property
    def _membership(self) -> NDArray[np.float32]:
        matrix = np.zeros((self.vision_classes, len(self.classes)), dtype=np.float32)
        for index, row in enumerate(self.classes):
            matrix[list(row.vision), index] = 1.0
        return matrix


def load_joint_table(audio_names: Sequence[str], vision_names: Sequence[str]) -> JointTable:
    """Read the table and find its names among those of the nets.

    Args:
        audio_names: Class names of the sound net, in the order of its scores.
        vision_names: The same of the picture net; each a row of synonyms between commas.

    Raises:
        ConfigError: The table names a class that a net does not have, or a label twice.
    """
    text = resources.files("workflows").joinpath("data", TABLE).read_text(encoding="utf-8")
    return parse_joint_table(yaml.safe_load(text), audio_names, vision_names)


def parse_joint_table(
    value: Mapping[str, Any], audio_names: Sequence[str], vision_names: Sequence[str]
) -> JointTable:
    """The table from its plain values; see `load_joint_table`."""
    if value.get("version") != VERSION:
        raise ConfigError(f"{TABLE}: version {value.get('version')!r} is not {VERSION}")
    index = {name: number for number, name in enumerate(audio_names)}
    rows = []
    for entry in value["classes"]:
        label = entry["label"]
        missing = [name for name in entry["audio"] if name not in index]
        if missing:
            raise ConfigError(f"{TABLE}: {label!r} names unknown sound classes {missing}")
        audio = tuple(index[name] for name in entry["audio"])
        vision = tuple(n for item in entry["vision"] for n in _vision(item, label, vision_names))
        rows.append(JointClass(label, audio, vision, entry["why"]))
    labels = [row.label for row in rows]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or set(labels) & set(value["unknown"]):
        raise ConfigError(f"{TABLE}: labels given twice: {twice or 'known and unknown'}")
    return JointTable(tuple(rows), dict(value["unknown"]), len(vision_names))


def _vision(item: str, label: str, names: Sequence[str]) -> range:
    """``"7 cock"`` or ``"10 brambling - 20 water ouzel"`` to the indices it stands for.

    ImageNet has names that stand twice (two cranes, two maillots), so the index decides and the
    name is there for the reader; it is checked all the same.
    """
    ends = []
    for part in item.split(" - "):
        number, _, name = part.partition(" ")
        if not number.isdigit() or int(number) >= len(names):
            raise ConfigError(f"{TABLE}: {label!r} has no picture class {part!r}")
        if names[int(number)].split(",")[0] != name:
            raise ConfigError(
                f"{TABLE}: {label!r} calls picture class {number} {name!r}, "
                f"but it is {names[int(number)]!r}"
            )
        ends.append(int(number))
    return range(ends[0], ends[-1] + 1)
