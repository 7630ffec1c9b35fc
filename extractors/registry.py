"""The table of backbones. Reading it loads no torch; only `load_backbone` does."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from extractors.lite import LITE, load_lite
from extractors.spec import Backbone, BackboneSpec
from pipeline.core.errors import UsageError


class Loader(Protocol):
    """Builds the two encoders of a backbone; imports torch when called, not before."""

    def __call__(self, *, device: str, threads: int | None) -> Backbone:
        """Load the encoders."""
        ...


@dataclass(frozen=True, slots=True)
class BackboneRow:
    """One row of the table.

    Attributes:
        spec: What the backbone is.
        load: How it is loaded.
    """

    spec: BackboneSpec
    load: Loader


BACKBONES: Mapping[str, BackboneRow] = MappingProxyType(
    {
        "lite": BackboneRow(LITE, load_lite),
    }
)


def backbone_names() -> tuple[str, ...]:
    """All names that ``--backbone`` takes, in the order of the table."""
    return tuple(BACKBONES)


def backbone_spec(name: str) -> BackboneSpec:
    """Description of a backbone, without loading it.

    Raises:
        UsageError: Unknown name.
    """
    return _row(name).spec


def load_backbone(name: str, *, device: str = "auto", threads: int | None = None) -> Backbone:
    """Load a backbone, ready to encode.

    Args:
        name: One of `backbone_names`.
        device: ``auto`` (a CUDA device when there is one, else the CPU) or a torch device name.
        threads: CPU cores to encode on; None takes torch's number of threads.

    Raises:
        UsageError: Unknown name or device name, or ``threads`` is below 1.
        EnvironmentFault: Weights or the device are missing on this machine.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads} is below 1", hint="leave it out to use all cores")
    return _row(name).load(device=device, threads=threads)


def _row(name: str) -> BackboneRow:
    if name in BACKBONES:
        return BACKBONES[name]
    near = difflib.get_close_matches(name.lower(), BACKBONES, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"unknown backbone {name!r}", hint=f"{guess}backbones: {', '.join(BACKBONES)}")
