"""Find a weights file, or fetch it, and make sure that it is the right one.

A file is looked for in the folder that the user names, then by each of `LOOKUPS` in turn: files
that ship inside an installed package (source ``pypi:NAME==VERSION``), then the cache. What is
nowhere is downloaded into the cache, which is said on standard error, unless the network is
forbidden. Whatever is found is accepted only with the size and hashes that its description
promises.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from extractors.spec import WeightsFile
from extractors.weights.addresses import SHA256_DIGITS, addresses_of
from extractors.weights.check import (
    PACKAGE_SCHEME,
    Record,
    describe_weights,
    expecting,
    read_record,
    verify_weights,
    way_out,
    write_record,
)
from extractors.weights.network import is_offline, mirrors
from extractors.weights.watch import OnStandardError, Watcher
from pipeline.core.atomic import atomic_path
from pipeline.core.errors import EnvironmentFault

CACHE_VARIABLE = "PIPELINE_CACHE"
PROJECT = "davel-pipeline"

Lookup = Callable[[WeightsFile], Path | None]
Where = Literal["folder", "package", "cache"]


def find_weights(
    weights: WeightsFile,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
) -> Path:
    """Path of a weights file on this machine, verified; it is downloaded where it is missing.

    Args:
        weights: What is wanted.
        weights_dir: Folder that is looked into first.
        offline: Whether the network is forbidden; None leaves it to `extractors.weights.network`.

    Raises:
        EnvironmentFault: The file is on this machine nowhere and cannot be fetched, or is another
            file than promised.
    """
    path = _look_up(weights, weights_dir)
    if path is not None:
        verify_weights(path, weights)
        return path
    forbidden = is_offline() if offline is None else offline
    if forbidden or not addresses_of(weights, mirrors=mirrors()):
        why = ", and the network is not to be used" if forbidden else ""
        raise EnvironmentFault(
            f"the weights {describe_weights(weights)} are not on this machine{why}",
            hint=way_out(weights),
        )
    return _download(weights, cache_folder(), copies=mirrors(), watch=OnStandardError())


def fetch_weights(
    weights: WeightsFile,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    copies: Sequence[str] = (),
    sha256: str = "",
    watch: Watcher | None = None,
) -> Path:
    """Have a weights file at hand: in a folder that is named, else anywhere on this machine.

    What lies on this machine already is copied rather than downloaded, and what is damaged there is
    replaced by the right file. A hash that the user gives counts like a published one, here and,
    written down beside the file, from then on.

    Args:
        weights: What is wanted.
        weights_dir: Folder that shall hold it; None is content with a package or the cache.
        copies: Addresses of folders with copies, asked before those of ``PIPELINE_MIRRORS``.
        sha256: Hash that the user expects, beside what is published; "" for none.
        watch: Is told what happens; None says it on standard error.

    Raises:
        EnvironmentFault: It cannot be fetched, or not be written.
        UsageError: The hash is none, or contradicts the published one.
    """
    target = None if weights_dir is None else Path(weights_dir)
    here = _right_one(expecting(weights, sha256), target)
    if here is not None:
        there = here if target in (None, here.parent) else _copy(here, target / weights.file)
        if sha256 and len(weights.sha256) < SHA256_DIGITS:
            _keep_hash(there, sha256.lower())
        return there
    if is_offline():
        raise EnvironmentFault(
            f"the weights {describe_weights(weights)} are not on this machine, and the network is "
            "not to be used",
            hint="leave out --offline and PIPELINE_OFFLINE, or copy the file here and name its "
            "folder with --weights-dir",
        )
    return _download(
        weights,
        target or cache_folder(),
        copies=(*copies, *mirrors()),
        sha256=sha256,
        watch=watch or OnStandardError(),
    )


def locate_weights(
    weights: WeightsFile, *, weights_dir: str | os.PathLike[str] | None = None
) -> tuple[Where, Path] | None:
    """Where a weights file lies, without looking into it; None where it is missing."""
    named = _in_folder(weights, weights_dir)
    if named is not None:
        return "folder", named
    packaged = find_in_package(weights)
    if packaged is not None:
        return "package", packaged
    cached = find_in_cache(weights)
    return None if cached is None else ("cache", cached)


def cache_folder() -> Path:
    """Folder of downloaded weights: ``weights`` in ``PIPELINE_CACHE`` or in the user's cache.

    Raises:
        EnvironmentFault: The user has no home.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser() / "weights"
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise EnvironmentFault(
            f"there is no folder for downloaded weights: {error}",
            hint=f"name one with {CACHE_VARIABLE}",
        ) from error
    return base / PROJECT / "weights"


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


def find_in_cache(weights: WeightsFile) -> Path | None:
    """The file that was downloaded before; None when it is not there."""
    return _in_folder(weights, cache_folder())


LOOKUPS: tuple[Lookup, ...] = (find_in_package, find_in_cache)


def _look_up(weights: WeightsFile, weights_dir: str | os.PathLike[str] | None) -> Path | None:
    lookups: tuple[Lookup, ...] = (lambda wanted: _in_folder(wanted, weights_dir), *LOOKUPS)
    return next((path for look in lookups if (path := look(weights)) is not None), None)


def _in_folder(weights: WeightsFile, folder: str | os.PathLike[str] | None) -> Path | None:
    path = None if folder is None else Path(folder) / weights.file
    return path if path is not None and path.exists() else None


def _right_one(weights: WeightsFile, folder: Path | None) -> Path | None:
    """The right file on this machine, in the folder before elsewhere; None where there is none."""
    lookups: tuple[Lookup, ...] = (lambda wanted: _in_folder(wanted, folder), *LOOKUPS)
    paths = (path for look in lookups if (path := look(weights)) is not None)
    return next((path for path in paths if _is_right(path, weights)), None)


def _keep_hash(path: Path, sha256: str) -> None:
    """Write down beside a file that it has the hash that the user gave."""
    try:
        state, record = path.stat(), read_record(path)
        address = "this machine" if record is None else record.address
        published = record is not None and record.published
        kept = Record(sha256, state.st_size, address, state.st_mtime_ns, published, given=True)
        if kept != record:
            write_record(path, kept)
    except OSError as error:
        raise EnvironmentFault(
            f"the hash of {path} cannot be written down beside it ({error.strerror})",
            hint="name another folder with --weights-dir",
        ) from error


def _is_right(path: Path, weights: WeightsFile) -> bool:
    if not path.exists():
        return False
    try:
        verify_weights(path, weights)
    except EnvironmentFault:
        return False
    return True


def _copy(source: Path, target: Path) -> Path:
    """A copy of a file and its record; whole or not at all."""
    try:
        with atomic_path(target) as temporary:
            shutil.copy2(source, temporary)
        record = read_record(source)
        if record is not None:
            write_record(target, record)  # copying kept the time of its last change
    except OSError as error:
        raise EnvironmentFault(
            f"{source} cannot be copied to {target} ({error.strerror})",
            hint="name another folder, or make room",
        ) from error
    return target


def _download(
    weights: WeightsFile,
    folder: Path,
    *,
    copies: Sequence[str],
    watch: Watcher,
    sha256: str = "",
) -> Path:
    from extractors.weights.download import (
        download_weights,  # the network is loaded when it is needed
    )

    return download_weights(weights, folder, mirrors=copies, sha256=sha256, watch=watch)
