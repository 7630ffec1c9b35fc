"""All weights files that the program can load, and what they are for.

The table is made from the descriptions of the backbones, so nothing in it is written twice. Reading
it loads no torch and touches no network.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from extractors.hf.model import is_hf
from extractors.onepeace.conversions import CONVERSIONS, Conversion, conversions_of
from extractors.registry import BACKBONES, backbone_spec
from extractors.spec import BackboneSpec, WeightsFile
from extractors.weights.addresses import Address, addresses_of
from extractors.weights.check import describe_size
from extractors.weights.find import find_weights
from pipeline.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One weights file.

    Attributes:
        weights: Its description.
        addresses: Where it can be fetched; empty where it comes inside a package, or has to be
            fetched by hand.
        backbones: Names of those that need it.
        conversion: Whether the program makes it itself, of other files.
        loaded: What the backbones that were asked for load of it instead of itself.
    """

    weights: WeightsFile
    addresses: tuple[Address, ...]
    backbones: tuple[str, ...]
    conversion: bool = False
    loaded: tuple[Conversion, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values; null for what nobody published."""
        weights = self.weights
        return {
            "file": weights.file,
            "bytes": weights.bytes or None,
            "about_bytes": weights.bytes or weights.about_bytes or None,
            "sha256": weights.sha256 or None,
            "git_blob": weights.git_blob or None,
            "licence": weights.licence,
            "source": weights.source,
            "addresses": [address.url for address in self.addresses],
            "backbones": list(self.backbones),
            "conversion": self.conversion,
        }


def catalogue() -> dict[str, CatalogueEntry]:
    """All weights files by name, in the order of the table of backbones."""
    needed: dict[str, tuple[WeightsFile, list[str]]] = {}
    for name, row in BACKBONES.items():
        for weights in _files(row.spec):
            needed.setdefault(weights.file, (weights, []))[1].append(name)
    return {file: _entry(weights, names) for file, (weights, names) in needed.items()}


def find_entries(names: Sequence[str], *, conversions: bool = False) -> list[CatalogueEntry]:
    """The weights files of backbones, and those named themselves; each once.

    Args:
        names: Of backbones and files; all files when there are none.
        conversions: Whether files that the program makes of others count, too: beside a checkpoint
            then stands what backbones load of it.

    Raises:
        UsageError: A name is neither.
    """
    entries = catalogue()
    if conversions:
        entries |= _conversions()
    if not names:
        return list(entries.values())
    found: dict[str, CatalogueEntry] = {}
    for name in names:
        if name in entries:
            found[name] = entries[name]
            continue
        spec = _spec(name, entries)
        made = conversions_of(spec) if conversions else {}
        for weights in _files(spec):
            entry = found.get(weights.file) or entries.get(weights.file) or _entry(weights, [name])
            own = made.get(weights.file, ())
            found[weights.file] = replace(entry, loaded=_once((*entry.loaded, *own)))
            found |= {one.weights.file: entries[one.weights.file] for one in own}
    return list(found.values())


def verify_backbone(name: str, *, weights_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Find and verify all weights of a backbone, without loading or downloading them.

    Args:
        name: The backbone.
        weights_dir: Folder that is looked into first.

    Returns:
        One line per file: its name, size, licence and path.

    Raises:
        UsageError: Unknown backbone.
        EnvironmentFault: A file is missing or damaged.
    """
    spec = backbone_spec(name, weights_dir=weights_dir, offline=True)
    if is_hf(name):  # its description was just made from the files, hashes too
        return [
            f"{weights.file}, {describe_size(weights)}, {weights.source}"
            for weights in _files(spec)
        ]
    return [
        f"{weights.file}, {describe_size(weights)}, {weights.licence}, "
        f"{find_weights(weights, weights_dir=weights_dir, offline=True)}"
        for weights in _files(spec)
    ]


def _conversions() -> dict[str, CatalogueEntry]:
    """Files that are made of those of the catalogue, by name."""
    users: dict[str, list[str]] = {made.weights.file: [] for made in CONVERSIONS}
    for name, row in BACKBONES.items():
        for made in chain.from_iterable(conversions_of(row.spec).values()):
            users[made.weights.file].append(name)
    return {
        made.weights.file: CatalogueEntry(
            made.weights, (), tuple(users[made.weights.file]), conversion=True
        )
        for made in CONVERSIONS
    }


def _once(made: Sequence[Conversion]) -> tuple[Conversion, ...]:
    return tuple(dict.fromkeys(made))


def _spec(name: str, entries: dict[str, CatalogueEntry]) -> BackboneSpec:
    """The backbone of a name that is no file's."""
    if is_hf(name):
        raise UsageError(
            f"the models of {name!r} are not in this table",
            hint="they are downloaded when they are first used, or with hf download ORG/NAME",
        )
    try:
        spec = backbone_spec(name)
    except UsageError as error:
        near = difflib.get_close_matches(name, entries, n=1, cutoff=0.7)
        if not near:
            raise
        raise UsageError(
            f"{name!r} is neither a backbone nor a weights file", hint=f"did you mean {near[0]!r}?"
        ) from error
    if all(weights.file == "none" for weights in _files(spec)):
        raise UsageError(f"{name!r} has no weights: its features come from elsewhere")
    return spec


def _entry(weights: WeightsFile, backbones: Sequence[str]) -> CatalogueEntry:
    return CatalogueEntry(weights, addresses_of(weights), tuple(dict.fromkeys(backbones)))


def _files(spec: BackboneSpec) -> tuple[WeightsFile, ...]:
    return (*spec.vision.files, *spec.audio.files)
