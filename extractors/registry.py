"""The table of backbones. Reading it loads no torch; only `load_backbone` does.

Each stands in it on every grid of `extractors.grids`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from extractors.grids import split_name
from extractors.hf.backbone import HfLoader
from extractors.hf.model import FORM, full_hf_name, hf_spec, is_hf
from extractors.i3d_vggish import I3D_VGGISH_LOADERS
from extractors.imported import imported_spec, is_imported
from extractors.lite import LITE_LOADERS
from extractors.naming import HOW_TO_CHOOSE, plain_names
from extractors.onepeace.backbone import ONEPEACE_LOADERS
from extractors.released import RELEASED, NoEncoder
from extractors.simulated import is_simulated, refuse_simulated, simulated_spec
from extractors.spec import Backbone, BackboneSpec
from extractors.weights.network import network
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
        **{name: BackboneRow(load.spec, load) for name, load in LITE_LOADERS.items()},
        **{name: BackboneRow(load.spec, load) for name, load in ONEPEACE_LOADERS.items()},
        **{name: BackboneRow(load.spec, load) for name, load in I3D_VGGISH_LOADERS.items()},
    }
)


def backbone_names() -> tuple[str, ...]:
    """All names that ``--backbone`` takes, in the order of the table."""
    return tuple(BACKBONES)


def backbone_spec(
    name: str,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> BackboneSpec:
    """Description of a backbone, without loading it.

    Args:
        name: One of `backbone_names`, or of a form that others make their own names of.
        weights_dir: Folder in which the models of ``hf:<vision>+<audio>`` are looked for first:
            what they are is read from their files, which are fetched where they are missing.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.

    Raises:
        UsageError: Unknown name.
        EnvironmentFault: A model of ``hf:<vision>+<audio>`` is missing and cannot be fetched.
    """
    folder = None if weights_dir is None else Path(weights_dir)
    with network(offline=offline):
        return _row(name, folder).spec


def load_backbone(
    name: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Backbone:
    """Load a backbone, ready to encode; weights that are missing are downloaded.

    Args:
        name: One of `backbone_names`.
        device: ``auto`` (a CUDA device when there is one, else the CPU) or a torch device name.
        threads: CPU cores to encode on; None takes torch's number of threads.
        weights_dir: Folder in which weights are looked for first; None for none.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.

    Raises:
        UsageError: Unknown name or device name, or ``threads`` is below 1.
        EnvironmentFault: The device is missing on this machine, or weights are missing and cannot
            be fetched, or are damaged.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads} is below 1", hint="leave it out to use all cores")
    folder = None if weights_dir is None else Path(weights_dir)
    with network(offline=offline):
        return _row(name, folder).load(device=device, threads=threads, weights_dir=folder)


def check_backbone(name: str) -> None:
    """Let pass a name that can be that of a backbone, without looking for any file.

    Raises:
        UsageError: Unknown name.
    """
    if is_hf(name):
        full_hf_name(name)
    else:
        _row(name)


def expected_digest(name: str, made_by: BackboneSpec) -> str:
    """Digest that features must have to be those of a backbone.

    What a name ``hf:<vision>+<audio>`` stands for is read from the models' files. Features that
    were made under the same name need them no more: they say themselves what made them.

    Args:
        name: The backbone.
        made_by: What the features at hand say of their backbone.

    Raises:
        UsageError: Unknown name.
        EnvironmentFault: The features were made under another name, and a model of
            ``hf:<vision>+<audio>`` is missing and cannot be fetched.
    """
    if is_hf(name) and full_hf_name(name) == made_by.name:
        return made_by.digest
    return backbone_spec(name).digest


def refuse_without_encoder(name: str) -> None:
    """Let pass what can look at videos.

    Raises:
        UsageError: Unknown name, or the features of that name come from elsewhere.
    """
    check_backbone(name)
    if is_hf(name):
        return
    load = _row(name).load
    if load is refuse_simulated or isinstance(load, NoEncoder):
        load(device="cpu", threads=None)


def _row(name: str, weights_dir: Path | None = None) -> BackboneRow:
    if name in BACKBONES:
        return BACKBONES[name]
    if is_hf(name):
        return BackboneRow(hf_spec(name, weights_dir=weights_dir), HfLoader(name))
    if is_simulated(name):
        return BackboneRow(simulated_spec(name), refuse_simulated)
    if name in RELEASED:
        return BackboneRow(RELEASED[name], NoEncoder(name))
    if is_imported(name):
        return BackboneRow(imported_spec(name), NoEncoder(name))
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    prefix, rest = split_name(name)
    if prefix and (rest in RELEASED or is_simulated(rest) or is_imported(rest)):
        return UsageError(
            f"{rest!r} are features that lie on a grid of their own",
            hint=f"{prefix!r} goes before the names of nets",
        )
    near = difflib.get_close_matches(name.lower(), [*BACKBONES, *RELEASED], n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join([*plain_names(BACKBONES), FORM])
    return UsageError(
        f"unknown backbone {name!r}", hint=f"{guess}backbones: {listed}; {HOW_TO_CHOOSE}"
    )
