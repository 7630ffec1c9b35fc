"""Branches of ONE-PEACE that were converted into files of their own, and whether they are whole.

A converted file carries the SHA-256 of its tensors' bytes in its header, so it can be verified on
any machine, without the checkpoint that it was made of. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from extractors.onepeace.keys import Branch
from extractors.onepeace.spec import BASE_WEIGHTS, K400_WEIGHTS, VISION_WEIGHTS
from extractors.spec import WeightsFile
from extractors.storage.safetensors_io import FormatFault, TensorFile, read_header
from extractors.weights.find import locate_weights
from pipeline.core.errors import EnvironmentFault

CONVERSION = "1"  # raise it when the names of our nets change
HASH_FIELD = "data_sha256"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Conversion:
    """One branch that is converted when it is first loaded.

    Attributes:
        branch: Which branch.
        checkpoints: Files that it can be made of; backbones name the first.
        optional: Whether it is of no backbone, but of an option.
    """

    branch: Branch
    checkpoints: tuple[WeightsFile, ...]
    optional: bool = False

    @property
    def weights(self) -> WeightsFile:
        """The converted file, of which nothing is published."""
        made_of = " or ".join(file.file for file in self.checkpoints)
        licence = self.checkpoints[0].licence
        return WeightsFile(converted_name(self.branch), 0, "", licence, f"made of {made_of}")


CONVERSIONS = (
    Conversion("video", (K400_WEIGHTS,)),
    Conversion("audio", (BASE_WEIGHTS,)),
    Conversion("image", (BASE_WEIGHTS, VISION_WEIGHTS), optional=True),
)


def converted_name(branch: Branch) -> str:
    """File name of a converted branch."""
    return f"onepeace-{branch}.safetensors"


def conversion_of(checkpoint: WeightsFile) -> Conversion | None:
    """What backbones load of a checkpoint instead of itself; None where they load the file."""
    found = (c for c in CONVERSIONS if not c.optional and c.checkpoints[0] == checkpoint)
    return next(found, None)


def is_converted(
    checkpoint: WeightsFile, *, weights_dir: str | os.PathLike[str] | None = None
) -> bool:
    """Whether what backbones load of a checkpoint is on this machine."""
    found = conversion_of(checkpoint)
    return found is not None and locate_weights(found.weights, weights_dir=weights_dir) is not None


def verify_conversion(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """Read a converted file and compare its tensors with the hash that it carries.

    Args:
        path: The file.
        progress: Told of the bytes that have been read.

    Returns:
        What can be said of it, in a line.

    Raises:
        EnvironmentFault: It cannot be read, is damaged, or was made by another version.
    """
    try:
        file = read_header(path)
        for name in file.fields:
            file.place(name)
        if file.metadata.get("conversion") != CONVERSION:
            raise FormatFault("it was not made by this version of the program")
        promised, found = file.metadata.get(HASH_FIELD), _data_sha256(file, progress)
        if promised is not None and promised != found:
            raise FormatFault(f"its tensors have SHA-256 {found} where {promised} was written")
    except (FormatFault, OSError) as error:
        raise EnvironmentFault(
            f"{path} is refused: {error}",
            hint="delete it: it is made again when the backbone is loaded, if its checkpoint is at "
            "hand",
        ) from error
    source = file.metadata.get("source", "an unknown file")
    if promised is None:
        return f"unknown (converted from {source} without a hash; SHA-256 of its tensors {found})"
    return f"ok (SHA-256 of its tensors {found}, as converted from {source})"


def _data_sha256(file: TensorFile, progress: Callable[[int], None] | None) -> str:
    digest = hashlib.sha256()
    with file.path.open("rb") as handle:
        handle.seek(file.data_start)
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            if progress is not None:
                progress(handle.tell())
    return digest.hexdigest()
