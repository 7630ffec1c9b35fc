"""Feature arrays of one video: what extraction yields, the store keeps and detectors read.

Shapes: T steps of the grid, D embedding width, K class scores of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.windows import WindowGrid

Status = Literal["done", "partial"]

# Array name -> type on disk. Class scores are probabilities: half precision keeps them to 5e-4.
ARRAY_TYPES: Mapping[str, str] = {
    "vision": "<f4",
    "audio": "<f4",
    "vision_mask": "|b1",
    "audio_mask": "|b1",
    "vision_scores": "<f2",
    "audio_scores": "<f2",
}

Rows = dict[str, NDArray[Any]]
"""Some consecutive steps of every array of `ARRAY_TYPES` that the backbone has; equal lengths."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of a video once its last step has been computed.

    Attributes:
        duration: Seconds of the container clock that the steps stand for.
        steps: Number of steps, T.
        coverage: Decoded share of each stream's promised span, by modality; a missing stream has
            no entry.
        readers: Reader that was used, by modality, with the reason where it was a fallback.
        status: ``partial`` when a stream covers less than 0.99 of what the container promised.
        notes: What the user must know: missing streams, early ends, fallbacks that matter.
    """

    duration: float
    steps: int
    coverage: Mapping[str, float]
    readers: Mapping[str, str]
    status: Status
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "duration": float(self.duration),  # a whole number would come back as another value
            "steps": self.steps,
            "coverage": dict(self.coverage),
            "readers": dict(self.readers),
            "status": self.status,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Summary:
        """Inverse of `to_json`."""
        return cls(
            duration=float(value["duration"]),
            steps=int(value["steps"]),
            coverage=dict(value["coverage"]),
            readers=dict(value["readers"]),
            status=value["status"],
            notes=tuple(value["notes"]),
        )


@dataclass(frozen=True, slots=True)
class Features:
    """All features of one video.

    Attributes:
        id: Name of the video in its store: the relative path with forward slashes.
        grid: Where the steps lie in time.
        digest: Digest of the backbone that made them.
        arrays: Each array of `ARRAY_TYPES` that the backbone has, length T. May be memory-mapped.
            Rows whose mask is False hold zeros.
        summary: Duration, coverage, notes.
    """

    id: str
    grid: WindowGrid
    digest: str
    arrays: Mapping[str, NDArray[Any]] = field(repr=False)
    summary: Summary

    @property
    def steps(self) -> int:
        """Number of steps, T."""
        return self.summary.steps

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def concatenate_rows(chunks: Iterable[Rows]) -> Rows:
    """Join consecutive rows along time.

    Raises:
        ValueError: There is no chunk.
    """
    parts = list(chunks)
    if not parts:
        raise ValueError("no feature rows to join")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
