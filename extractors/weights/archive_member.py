"""Take one file out of a zip archive that came from elsewhere."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from extractors.weights.transfer import TransferRefusedError
from extractors.zip_faults import ZIP_FAULTS
from pipeline.core.partial import PartialFile

CHUNK_BYTES = 1 << 20


def extract_member(archive: Path, member: str, part: PartialFile, *, limit: int) -> None:
    """Unpack a file, whatever folder of the archive it lies in.

    Args:
        archive: The archive.
        member: Name of the file.
        part: What it is written to.
        limit: Bytes that it may have at most; a few bytes can unpack to more than a disk holds.

    Raises:
        TransferRefusedError: The archive is damaged, has no such file or too large a one.
        OSError: It cannot be written.
    """
    part.restart()
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [i for i in opened.infolist() if PurePosixPath(i.filename).name == member]
            if not found:
                raise TransferRefusedError(f"its archive holds no {member}")
            with opened.open(found[0]) as source, part.appending() as out:
                left = limit
                while chunk := source.read(CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise TransferRefusedError(f"{member} in its archive is far too large")
                    out.write(chunk)
    except ZIP_FAULTS as error:
        raise TransferRefusedError(f"its archive is damaged ({error})") from error
