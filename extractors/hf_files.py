"""Where a model of ``transformers`` lies on this machine, and what its files are.

A model is a folder in the hub's layout: ``config.json``, the settings of its processor and
``model.safetensors``, whole or in parts. It is named by the path of the folder, or by its id on the
hub, which is looked for in the folder that the user names, then in the hub's own cache, then
downloaded into that cache unless the network is forbidden.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from extractors.network import is_offline
from extractors.spec import WeightsFile
from pipeline.core.errors import EnvironmentFault

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# One of these holds what a tokenizer knows.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
# Nothing else is fetched: no weights of other libraries, no code.
WANTED = (
    CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
    "model-*-of-*.safetensors",
    *PROCESSOR_FILES,
    "video_preprocessor_config.json",
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
INSTALL = "pip install 'davel-pipeline[hf]'"

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<rev>[\w./-]+))?")
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a user calls a model.

    Attributes:
        text: As it is written in a backbone's name; folders absolute.
        folder: The folder, where it is named by its path.
        repo: Its id on the hub, where it is named by that; "" else.
        revision: Branch, tag or commit there; None for the newest.
    """

    text: str
    folder: Path | None = None
    repo: str = ""
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this machine.

    Attributes:
        path: Its folder.
        source: Where it comes from, in a word.
        config: What ``config.json`` says.
        weights: Its weights files, hashed.
    """

    path: Path
    source: str
    config: dict[str, Any]
    weights: tuple[WeightsFile, ...]


def parse_model_name(text: str) -> ModelName | None:
    """A path (beginning with ``/``, ``./``, ``../``, ``~`` or a drive) or a hub id; None else."""
    if re.match(r"/|\.{1,2}[/\\]|\.{1,2}$|~|[A-Za-z]:[\\/]", text):
        folder = Path(text).expanduser().absolute()
        return ModelName(str(folder), folder=folder)
    found = _HUB_ID.fullmatch(text)
    return found and ModelName(text, repo=found["repo"], revision=found["rev"])


def find_model(name: ModelName, *, weights_dir: Path | None) -> ModelFolder:
    """The model's folder; it is downloaded where it is missing.

    Args:
        name: What is wanted.
        weights_dir: Folder that is looked into first, for ``<org>/<name>`` or ``<org>--<name>``; a
            revision is not looked at there.

    Raises:
        EnvironmentFault: It is on this machine nowhere and cannot be fetched, or is incomplete.
    """
    if name.folder is not None:
        return _open_folder(name.folder, f"folder:{name.folder}")
    for candidate in _in_weights_dir(name.repo, weights_dir):
        if candidate.is_dir():
            return _open_folder(candidate, f"folder:{candidate}")
    path = _from_hub(name, weights_dir)
    return _open_folder(path, f"hub:{name.repo}@{path.name}")


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file that describes a model.

    Raises:
        EnvironmentFault: It cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"{path} cannot be read: {error}", hint="copy or download the model again"
        ) from error
    if not isinstance(value, dict):
        raise EnvironmentFault(f"{path} holds no settings", hint="download the model again")
    return value


def _open_folder(path: Path, source: str) -> ModelFolder:
    if not path.is_dir():
        raise EnvironmentFault(
            f"there is no folder {path}",
            hint="name the folder that holds the model's config.json, or its id on the hub",
        )
    if not (path / CONFIG).is_file():
        raise EnvironmentFault(
            f"{path} holds no model: there is no {CONFIG}",
            hint="name a folder as save_pretrained() of transformers writes it",
        )
    config = read_settings(path / CONFIG)
    return ModelFolder(path, source, config, _weights(path, source))


def _weights(path: Path, source: str) -> tuple[WeightsFile, ...]:
    """All weights files of a folder, with their sizes and hashes."""
    if (path / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (path / WEIGHTS_INDEX).is_file():
        parts = read_settings(path / WEIGHTS_INDEX).get("weight_map", {})
        names = sorted({Path(str(part)).name for part in parts.values()})
    else:
        names = []
    missing = [name for name in names if not (path / name).is_file()]
    if missing or not names:
        raise EnvironmentFault(
            f"{path} lacks {', '.join(missing) or WEIGHTS}",
            hint="only weights in the safetensors format are loaded: save the model with "
            "save_pretrained(), or name a revision that has them, as in ORG/NAME@refs/pr/1",
        )
    return tuple(_describe(path / name, source) for name in names)


def _describe(path: Path, source: str) -> WeightsFile:
    state = path.stat()
    return WeightsFile(
        file=path.name,
        bytes=state.st_size,
        sha256=_sha256(path, state.st_size, state.st_mtime_ns),
        licence="see the model's card",
        source=source,
    )


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified_ns: int) -> str:
    """Hash of a file; read again only when it has changed."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _in_weights_dir(repo: str, weights_dir: Path | None) -> list[Path]:
    if weights_dir is None:
        return []
    return [weights_dir / repo, weights_dir / repo.replace("/", "--")]


def _from_hub(name: ModelName, weights_dir: Path | None) -> Path:
    """Folder of a snapshot in the hub's cache, fetched where it is not there."""
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise EnvironmentFault(
            f"{name.repo} cannot be looked for: the package huggingface_hub is missing",
            hint=f"{INSTALL}, or name the model's folder by its path",
        ) from error
    wanted = {"repo_id": name.repo, "revision": name.revision, "allow_patterns": list(WANTED)}
    try:
        cached = Path(snapshot_download(**wanted, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.CacheNotFound):
        cached = None
    if cached is not None and _is_whole(cached):
        return cached
    if is_offline():
        raise _missing(name, weights_dir, "the network is not to be used")
    sys.stderr.write(f"downloading the model {name.text} from the Hugging Face hub\n")
    # The library has no common class for what goes wrong on the way to the hub.
    http = errors.HTTPError
    unresolved = getattr(errors, "RevisionResolutionError", http)
    try:
        return Path(snapshot_download(**wanted))
    except (OSError, ValueError, http, unresolved) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _missing(name, weights_dir, reason) from error


def _is_whole(path: Path) -> bool:
    """Whether a snapshot has what was wanted; one that was broken off has not."""
    has_weights = (path / WEIGHTS).is_file() or (path / WEIGHTS_INDEX).is_file()
    return (path / CONFIG).is_file() and has_weights


def _missing(name: ModelName, weights_dir: Path | None, why: str) -> EnvironmentFault:
    looked = [str(path) for path in _in_weights_dir(name.repo, weights_dir)]
    places = ", ".join([*looked, "the Hugging Face cache"])
    revision = f" --revision {name.revision}" if name.revision else ""
    local = Path(name.repo)
    folder = f"; for the folder of that name write ./{local}" if local.is_dir() else ""
    return EnvironmentFault(
        f"the model {name.text} is not on this machine (looked in {places}): {why}",
        hint=f"with network: hf download {name.repo}{revision}; or copy its folder to "
        f"DIR/{name.repo} and give --weights-dir DIR{folder}",
    )
