"""Fill a partial file from one address, in as many requests as it takes.

A download that broke off goes on where it stopped as long as the server proves that it still
serves the same content; where a hash is published, the rest may as well come from another address,
because the hash is what decides in the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from extractors.spec import WeightsFile
from extractors.weights.addresses import Address
from extractors.weights.transfer import (
    Answer,
    Entity,
    RangeGoneError,
    TransferBrokenError,
    TransferRefusedError,
    request,
)
from extractors.weights.watch import Silent, Watcher
from pipeline.core.errors import EnvironmentFault
from pipeline.core.partial import PartialFile

SPARE_BYTES = 256 << 20  # of disk that a download leaves free
# Where no hash tells, an answer of quite another size than expected is no weights file.
LEAST_SHARE, MOST_SHARE = 0.9, 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on trying at one address.

    Attributes:
        waits: Seconds before each further attempt in a row that brings nothing new.
        unanswered: How many of them as long as nothing has come from there at all.
        sleep: Lets them pass.
    """

    waits: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)
    unanswered: int = 3
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Order:
    """What is fetched, and how.

    Attributes:
        weights: The file; with the hash that the user gave, where one was given.
        watch: Is told what happens.
        patience: How long to go on trying.
        published: Whether a hash of it is published, in full or in part.
        given: Whether the user gave one.
    """

    weights: WeightsFile
    watch: Watcher = field(default_factory=Silent)
    patience: Patience = field(default_factory=Patience)
    published: bool = False
    given: bool = False

    @property
    def has_hash(self) -> bool:
        """Whether what came can be told from anything else that might."""
        return bool(self.weights.sha256 or self.weights.git_blob)


def fill(part: PartialFile, place: Address, order: Order) -> None:
    """Fetch what is missing, in as many requests as it takes.

    Raises:
        TransferRefusedError: The address refuses, or nothing new has come for too long.
    """
    best, failures, came = part.size, 0, False
    while True:
        before = part.size
        try:
            if _advance(part, place, order):
                return
            if part.size <= before:
                raise TransferBrokenError("nothing came")
        except TransferBrokenError as fault:
            if part.size > best:
                best, failures, came = part.size, 0, True
            waits = order.patience.waits
            if failures >= (len(waits) if came else min(order.patience.unanswered, len(waits))):
                raise TransferRefusedError(f"{fault}, {failures + 1} times in a row") from fault
            wait = waits[failures] if fault.wait is None else fault.wait
            failures += 1
            order.watch.say(f"{order.weights.file}: {fault}; trying again in {wait:g} s")
            order.patience.sleep(wait)


def _advance(part: PartialFile, place: Address, order: Order) -> bool:
    """Make one request, and take what comes.

    Returns:
        Whether all is there.
    """
    same_place = part.note.get("url") == place.url
    if _whole(part) and (order.has_hash or same_place):
        return True
    condition = _entity(part).condition if same_place else ""
    # By the hash, or by the server's word that its file is still the same.
    offset = part.size if order.has_hash or condition else 0
    try:
        with request(place.url, offset=offset, condition=condition) as answer:
            _take(answer, part, place, order)
    except RangeGoneError as gone:
        if order.has_hash and gone.total == part.size:
            return True  # its length was given wrongly; the hash tells whether this is all
        part.restart()
        raise TransferBrokenError("the file there is shorter than what has come") from gone
    # A server may send less than it was asked for, and need not say how long the file is.
    return _entity(part).total is None or _whole(part)


def _take(answer: Answer, part: PartialFile, place: Address, order: Order) -> None:
    """Append an answer to what is there, or begin anew with it."""
    entity, known = answer.entity, _entity(part)
    if answer.start == 0:
        _refuse_other_size(entity, place, order)
        part.restart(_note(entity, place, pieces=1))
    else:
        same_place = part.note.get("url") == place.url
        before = known if same_place else Entity(known.total, "", "")
        if before.differs_from(entity):
            part.restart()
            raise TransferBrokenError("the file there has changed")
        total = entity.total or known.total
        merged = Entity(total, entity.etag or before.etag, entity.modified or before.modified)
        part.annotate(**_note(merged, place, pieces=part.note.get("pieces", 1) + 1))
    total = _entity(part).total
    refuse_small_disk(part, (total or part.size) - part.size)
    done = part.size
    with part.appending() as out:
        for block in answer.blocks():
            out.write(block)
            done += len(block)
            order.watch.progress(f"fetching {order.weights.file}", done, total)
    if total is not None and part.size > total:
        part.restart()
        raise TransferBrokenError("more came than the whole file has")


def _refuse_other_size(entity: Entity, place: Address, order: Order) -> None:
    """Raise TransferRefusedError where the length alone tells that this is another file."""
    weights, total = order.weights, entity.total
    if total == 0:
        raise TransferRefusedError("its file is empty")
    if place.member:
        return
    if total is None:
        if not order.has_hash:
            raise TransferRefusedError(
                "it does not say how long the file is, and no hash is published that would tell"
            )
        return
    if weights.bytes and total != weights.bytes:
        raise TransferRefusedError(f"its file has {total:,} bytes, not {weights.bytes:,}")
    about = weights.about_bytes
    if about and not order.has_hash and not LEAST_SHARE <= total / about <= MOST_SHARE:
        raise TransferRefusedError(f"its file has {total:,} bytes where about {about:,} are due")


def refuse_small_disk(part: PartialFile, missing: int) -> None:
    """Raise EnvironmentFault where what is missing will not fit."""
    free = shutil.disk_usage(part.target.parent).free
    if missing > 0 and free < missing + SPARE_BYTES:
        raise EnvironmentFault(
            f"{part.target.name} needs {missing:,} bytes more, and {part.target.parent} has "
            f"{free:,} free",
            hint="make room, or name another folder with PIPELINE_CACHE or --weights-dir",
        )


def _whole(part: PartialFile) -> bool:
    """Whether as much is there as the server said that there is."""
    return bool(part.size) and part.size == _entity(part).total


def _entity(part: PartialFile) -> Entity:
    note = part.note
    total = note.get("total")
    return Entity(
        total if isinstance(total, int) else None,
        str(note.get("etag", "")),
        str(note.get("modified", "")),
    )


def _note(entity: Entity, place: Address, *, pieces: int) -> dict[str, Any]:
    return {
        "url": place.url,
        "total": entity.total,
        "etag": entity.etag,
        "modified": entity.modified,
        "pieces": pieces,
    }
