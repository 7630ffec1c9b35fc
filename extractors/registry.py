"""The table of backbones. Reading it loads no torch; only `load_backbone` does."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from extractors.i3d_vggish import I3D_VGGISH_LOADERS
from extractors.imported import imported_spec, is_imported
from extractors.lite import LITE, load_lite
from extractors.onepeace import ONEPEACE_LOADERS
from extractors.released import RELEASED, NoEncoder
from extractors.simulated import is_simulated, refuse_simulated, simulated_spec
from extractors.spec import Backbone, BackboneSpec
from pipeline.core.errors import UsageError


class Loader(Protocol):
    """Builds the two encoders of a backbone; imports torch when called, not before."""

    def __call__(
        self, *, device: str, threads: int | None, weights_dir: Path | None = None
    ) -> Backbone:
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
        **{name: BackboneRow(load.spec, load) for name, load in ONEPEACE_LOADERS.items()},
        **{name: BackboneRow(load.spec, load) for name, load in I3D_VGGISH_LOADERS.items()},
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


def load_backbone(
    name: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
) -> Backbone:
    """Load a backbone, ready to encode.

    Args:
        name: One of `backbone_names`.
        device: ``auto`` (a CUDA device when there is one, else the CPU) or a torch device name.
        threads: CPU cores to encode on; None takes torch's number of threads.
        weights_dir: Folder in which weights are looked for first; None for none.

    Raises:
        UsageError: Unknown name or device name, or ``threads`` is below 1.
        EnvironmentFault: Weights or the device are missing on this machine.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads} is below 1", hint="leave it out to use all cores")
    folder = None if weights_dir is None else Path(weights_dir)
    return _row(name).load(device=device, threads=threads, weights_dir=folder)


def _row(name: str) -> BackboneRow:
    if name in BACKBONES:
        return BACKBONES[name]
    if is_simulated(name):
        return BackboneRow(simulated_spec(name), refuse_simulated)
    if name in RELEASED:
        return BackboneRow(RELEASED[name], NoEncoder(name))
    if is_imported(name):
        return BackboneRow(imported_spec(name), NoEncoder(name))
    near = difflib.get_close_matches(name.lower(), [*BACKBONES, *RELEASED], n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"unknown backbone {name!r}", hint=f"{guess}backbones: {', '.join(BACKBONES)}")
