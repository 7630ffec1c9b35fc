"""Fetch a weights file: resumed where it broke off, checked, and there whole or not at all.

What has come lies in ``FILE.part`` until all of it is there and is what was promised; only then it
gets its name. A download that broke off goes on where it stopped, in this process or a later one,
as long as the server proves that it still serves the same content; where a hash is published, the
rest may as well come from another address. A lock keeps other processes out meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from extractors.spec import WeightsFile
from extractors.weights.addresses import SHA256_DIGITS, Address, addresses_of, has_full_hash
from extractors.weights.archive_member import extract_member
from extractors.weights.check import (
    Record,
    describe_weights,
    expecting,
    mismatch,
    record_path,
    sha256_of,
    verify_weights,
    way_out,
    write_record,
)
from extractors.weights.resume import MOST_SHARE, Order, Patience, fill, refuse_small_disk
from extractors.weights.transfer import TransferRefusedError
from extractors.weights.watch import Silent, Watcher
from pipeline.core.atomic import LEFTOVER_AGE_S, clean_temporaries
from pipeline.core.errors import EnvironmentFault
from pipeline.core.locks import LockFile
from pipeline.core.partial import SAFE_EVERY, PartialFile

LOCK_FILE = ".weights.lock"
ARCHIVE_SUFFIX = ".zip"
FULL = (errno.ENOSPC, errno.EDQUOT)


def download_weights(
    weights: WeightsFile,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    sha256: str = "",
    watch: Watcher | None = None,
    patience: Patience | None = None,
    safe_every: int = SAFE_EVERY,
) -> Path:
    """Fetch a weights file into a folder, unless it is there.

    Args:
        weights: The file.
        folder: Where it shall lie; made when missing.
        mirrors: Addresses of folders that are tried first, for files with a full hash.
        sha256: Hash that the user expects, beside what is published; "" for none.
        watch: Is told what happens.
        patience: How long to go on trying.
        safe_every: Bytes that a killed process may lose.

    Returns:
        Its path.

    Raises:
        EnvironmentFault: No address is known, none of them serves the right file, or the folder
            cannot be written or is too small.
        UsageError: The hash is none, or contradicts the published one.
    """
    order = Order(
        expecting(weights, sha256),
        watch or Silent(),
        patience or Patience(),
        published=bool(weights.sha256 or weights.git_blob),
        given=bool(sha256),
    )
    target = folder / weights.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, order) as shared:
            if not _is_there(target, order.weights):
                clean_temporaries(folder, older_than_seconds=LEFTOVER_AGE_S)
                part = PartialFile(target, private=not shared, safe_every=safe_every)
                try:
                    _from_any(mirrors, part, order)
                finally:
                    if part.private:
                        part.discard()
    except OSError as error:
        full = error.errno in FULL
        raise EnvironmentFault(
            f"{target} cannot be written ({error.strerror or error})",
            hint="make room and run the same command again: it goes on where it stopped"
            if full
            else "name another folder with PIPELINE_CACHE or --weights-dir",
        ) from error
    return target


@contextmanager
def _alone(folder: Path, order: Order) -> Iterator[bool]:
    """Keep other processes from fetching the same file into the same folder.

    Yields:
        Whether that works here. Where it does not, each must fetch a file of its own.
    """
    lock = LockFile(folder / LOCK_FILE)
    name = order.weights.file
    with lock.hold(name, wait=False) as mine:
        if mine:
            yield lock.excludes
            return
    order.watch.say(f"{name}: another process is fetching it; waiting")
    with lock.hold(name, wait=True):
        yield lock.excludes


def _is_there(target: Path, weights: WeightsFile) -> bool:
    """Whether the right file lies there; another one is replaced when the right one has come."""
    if not target.exists():
        return False
    try:
        verify_weights(target, weights)
    except EnvironmentFault:
        return False
    return True


def _from_any(mirrors: Sequence[str], part: PartialFile, order: Order) -> None:
    """Fetch from the first address that serves the right file."""
    weights = order.weights
    places = addresses_of(weights, mirrors=mirrors)
    if not places:
        raise EnvironmentFault(
            f"the weights {describe_weights(weights)} cannot be fetched by the program",
            hint=way_out(weights),
        )
    if mirrors and not has_full_hash(weights):
        order.watch.say(
            f"{weights.file}: no full hash of it is published, so no mirror is asked; where you "
            f"know it: pipeline models fetch {weights.file} --mirror URL --sha256 HASH"
        )
    refuse_small_disk(part, (weights.bytes or weights.about_bytes) - part.size)
    reasons = []
    for place in places:
        begun = f", going on behind {part.size:,} bytes" if part.size else ""
        order.watch.say(f"fetching {describe_weights(weights)} at {place.url}{begun}")
        try:
            _from_one(place, part, order)
            return
        except TransferRefusedError as refusal:
            reasons.append(f"{place.url}: {refusal}")
    kept = " (what has come is kept: the same command goes on there)" if part.size else ""
    raise EnvironmentFault(
        f"the weights {describe_weights(weights)} could not be fetched: {'; '.join(reasons)}{kept}",
        hint=way_out(weights),
    )


def _from_one(place: Address, part: PartialFile, order: Order) -> None:
    """Fetch from one address, check, and give the file its name.

    Raises:
        TransferRefusedError: The right file is not to be had there.
    """
    for last in (False, True):
        if place.member:
            _unpack(place, part, order)
        else:
            fill(part, place, order)
        spliced = part.note.get("pieces", 1) > 1
        wrong = _check(part, order)
        if wrong is None:
            _finish(part, place, order)
            return
        part.discard()
        if last or not spliced:
            raise TransferRefusedError(f"what it serves has {wrong}")
        # Beginning and end may be those of different contents: one more time, from the start.
        order.watch.say(f"{order.weights.file}: what came has {wrong}; fetching it from its start")


def _unpack(place: Address, part: PartialFile, order: Order) -> None:
    """Fetch an archive and take the file out of it."""
    archive = part.sibling(ARCHIVE_SUFFIX)
    size = order.weights.bytes or order.weights.about_bytes
    for last in (False, True):
        fill(archive, place, order)
        pieces = archive.note.get("pieces", 1)
        try:
            extract_member(archive.path, place.member, part, limit=int(MOST_SHARE * size))
        except TransferRefusedError:
            part.discard()
            if last or pieces == 1:
                raise
            continue  # its beginning and end may be those of different archives
        finally:
            archive.discard()
        part.annotate(pieces=pieces)
        return


def _check(part: PartialFile, order: Order) -> str | None:
    """What is wrong with a file that came, by what is published of it."""
    return mismatch(part.path, order.weights, progress=_checking(part, order))


def _checking(part: PartialFile, order: Order) -> Callable[[int], None]:
    size, label = part.size, f"checking {order.weights.file}"
    return lambda done: order.watch.progress(label, done, size)


def _finish(part: PartialFile, place: Address, order: Order) -> None:
    """Write down what came, and give it its name."""
    target, found = part.target, order.weights.sha256
    if len(found) < SHA256_DIGITS:  # else it has just been compared
        found = sha256_of(part.path, progress=_checking(part, order))
    modified = part.path.stat().st_mtime_ns
    write_record(
        target, Record(found, part.size, place.url, modified, order.published, given=order.given)
    )
    part.commit()
    if order.has_hash:
        confirmed = "as published" if order.published else "of the SHA-256 that was given"
        order.watch.say(f"{target}: complete, and {confirmed}")
        return
    order.watch.say(
        f"{target}: complete. Nobody published a hash of it. Its SHA-256 is {found}; that is "
        f"written down in {record_path(target).name}, so that later changes are noticed"
    )
