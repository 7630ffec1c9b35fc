"""Branches of ONE-PEACE that were converted into files of their own, and whether they are whole.

A converted file carries the SHA-256 of its tensors' bytes in its header, so it can be verified on
any machine, without the checkpoint that it was made of. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extractors.onepeace.keys import Branch
from extractors.onepeace.spec import (
    BASE_WEIGHTS,
    K400_WEIGHTS,
    ONEPEACE_AUDIO,
    ONEPEACE_IMAGE,
    ONEPEACE_VIDEO,
    ONEPEACE_VISION,
    VISION_WEIGHTS,
)
from extractors.spec import BackboneSpec, WeightsFile
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
        checkpoint: File that it is made of.
    """

    branch: Branch
    checkpoint: WeightsFile

    @property
    def weights(self) -> WeightsFile:
        """The converted file, of which nothing is published."""
        source = f"made of {self.checkpoint.file}"
        return WeightsFile(converted_name(self.branch), 0, "", self.checkpoint.licence, source)


def converted_name(branch: Branch) -> str:
    """File name of a converted branch; each is a part of one checkpoint only."""
    return f"onepeace-{branch}.safetensors"


def find_converted(folder: Path, branch: Branch, checkpoint: WeightsFile) -> Path | None:
    """The branch as it was converted from a checkpoint before, in a folder; None without.

    A file that cannot be read is answered, too, so that it is refused with the reason.
    """
    path = folder / converted_name(branch)
    return path if path.exists() and _source_of(path) in (checkpoint.file, None) else None


_BRANCHES: Mapping[str, Branch] = {
    ONEPEACE_VIDEO.name: "video",
    ONEPEACE_AUDIO.name: "audio",
    ONEPEACE_IMAGE.name: "image",
    ONEPEACE_VISION.name: "vision",
}
CONVERSIONS = (
    Conversion("video", K400_WEIGHTS),
    Conversion("audio", BASE_WEIGHTS),
    Conversion("image", BASE_WEIGHTS),
    Conversion("text", BASE_WEIGHTS),
    Conversion("vision", VISION_WEIGHTS),
)


def conversions_of(spec: BackboneSpec) -> dict[str, tuple[Conversion, ...]]:
    """What a backbone loads of each of its checkpoints, by the checkpoint's file name.

    Args:
        spec: Any backbone; files that are loaded as they are have no entry.
    """
    found: dict[str, tuple[Conversion, ...]] = {}
    for encoder in (spec.vision, spec.audio):
        if encoder.name in _BRANCHES:
            made = Conversion(_BRANCHES[encoder.name], encoder.weights)
            found[encoder.weights.file] = (*found.get(encoder.weights.file, ()), made)
    return found


def are_converted(
    made: Sequence[Conversion], *, weights_dir: str | os.PathLike[str] | None = None
) -> bool:
    """Whether all that is loaded of a checkpoint is on this machine; False for nothing."""
    return bool(made) and all(
        locate_weights(one.weights, weights_dir=weights_dir) is not None for one in made
    )


def usable_conversion(
    made: Sequence[Conversion], *, weights_dir: str | os.PathLike[str] | None = None
) -> Path | None:
    """The first of what is loaded of a checkpoint, where all is whole by its header; None else.

    Args:
        made: What is loaded.
        weights_dir: Folder that must hold it; None is content with the cache.
    """
    places = [_usable(one, weights_dir) for one in made]
    return places[0] if places and None not in places else None


def _usable(made: Conversion, weights_dir: str | os.PathLike[str] | None) -> Path | None:
    place = locate_weights(made.weights, weights_dir=weights_dir)
    if place is None or (weights_dir is not None and place[0] != "folder"):
        return None
    try:
        current = read_header(place[1]).metadata.get("conversion") == CONVERSION
    except (FormatFault, OSError):
        return None
    return place[1] if current else None


def _source_of(path: Path) -> str | None:
    """Name of the checkpoint that a file was converted from; None where it cannot be read."""
    try:
        return read_header(path).metadata.get("source")
    except (FormatFault, OSError):
        return None


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
