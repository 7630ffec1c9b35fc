"""Which files of a model's folder hold its weights, and what they are.

Weights lie in the safetensors format or in torch's own (a pickle), whole or in parts that an index
names. Where a folder has both formats, safetensors is taken. Parts lie beside their index: a path
that leads elsewhere is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from extractors.spec import WeightsFile
from pipeline.core.errors import EnvironmentFault

LICENCE = "see the model's card"

_PART = re.compile(r"\w[\w.-]*")  # a file name, with nothing that a path or a pattern consists of
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class WeightsFormat:
    """A way in which weights are stored.

    Attributes:
        whole: Name of the file that holds all of them.
        suffix: Ending of the names of parts.
    """

    whole: str
    suffix: str

    @property
    def index(self) -> str:
        """Name of the file that lists the parts."""
        return f"{self.whole}.index.json"


FORMATS = (  # the first that is there is taken
    WeightsFormat("model.safetensors", ".safetensors"),
    WeightsFormat("pytorch_model.bin", ".bin"),
)
INDICES = tuple(kind.index for kind in FORMATS)


def weights_names(folder: Path, has: Callable[[str], bool]) -> tuple[str, ...]:
    """Names of the files that hold a model's weights; none where there are no weights.

    Args:
        folder: Holds the index, where there is one.
        has: Whether the model has a file of this name.

    Raises:
        EnvironmentFault: An index cannot be read, or names files that are not beside it.
    """
    for kind in FORMATS:
        if has(kind.whole):
            return (kind.whole,)
        if (folder / kind.index).is_file():
            return _parts(folder / kind.index, kind)
    return ()


def is_safetensors(file: str) -> bool:
    """Whether a weights file is of the safetensors format, by its name."""
    return file.endswith(FORMATS[0].suffix)


def describe_file(path: Path, source: str) -> WeightsFile:
    """Size and hash of a weights file on this machine.

    Args:
        path: The file.
        source: Where it comes from, in a word.

    Raises:
        EnvironmentFault: It cannot be read.
    """
    try:
        state = path.stat()
        sha256 = _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be read ({error.strerror})", hint="download the model again"
        ) from error
    return WeightsFile(path.name, state.st_size, sha256, LICENCE, source)


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file that describes a model.

    Raises:
        EnvironmentFault: It cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentFault(
            f"{path} cannot be read: {error}", hint="copy or download the model again"
        ) from error
    if not isinstance(value, dict):
        raise EnvironmentFault(f"{path} holds no settings", hint="download the model again")
    return value


def _parts(index: Path, kind: WeightsFormat) -> tuple[str, ...]:
    table = read_settings(index).get("weight_map")
    parts = list(table.values()) if isinstance(table, dict) else []
    if not parts or not all(isinstance(part, str) for part in parts):
        raise EnvironmentFault(f"{index} names no parts", hint="download the model again")
    names = tuple(sorted(set(parts)))
    for part in names:
        if not _PART.fullmatch(part) or not part.endswith(kind.suffix):
            raise EnvironmentFault(
                f"{index} names {part!r} as a part, which is no {kind.suffix} file beside it",
                hint="weights are read from the model's own folder only: do not trust this model, "
                "or save it again with save_pretrained()",
            )
    return names


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified_ns: int) -> str:
    """Hash of a file; read again only when it has changed."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
