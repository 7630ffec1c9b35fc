"""Where a model of ``transformers`` lies on this machine, and what its files are.

A model is a folder in the hub's layout: ``config.json``, the settings of its processor, and its
weights (`extractors.hf.weights`). It is named by the path of the folder, or by its id on the hub,
which is looked for in the folder that the user names, then in the hub's own cache, then downloaded
into that cache unless the network is forbidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from extractors.hf.hub import (
    CONFIG,
    HubModel,
    ask_for_file,
    damaged_file,
    fetch_files,
    find_description,
    missing_model,
    promised_sha256,
)
from extractors.hf.weights import FORMATS, describe_file, read_settings, weights_names
from extractors.spec import WeightsFile
from extractors.weights.network import is_offline
from pipeline.core.errors import EnvironmentFault

Need = Literal["files", "description"]
"""Whether a model's weights must be on this machine, or it is enough to know what they are."""

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<rev>[\w./-]+))?")


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
        hub: The same model on the hub; None for a folder that the user has.
        weights: Its weights files, as far as `find_weights_of` was asked for them.
        missing: Those of them that are not on this machine.
    """

    path: Path
    source: str
    config: dict[str, Any]
    hub: HubModel | None = None
    weights: tuple[WeightsFile, ...] = ()
    missing: tuple[WeightsFile, ...] = ()


def parse_model_name(text: str) -> ModelName | None:
    """A path (beginning with ``/``, ``./``, ``../``, ``~`` or a drive) or a hub id; None else."""
    if re.match(r"/|\.{1,2}[/\\]|\.{1,2}$|~|[A-Za-z]:[\\/]", text):
        folder = Path(text).expanduser().absolute()
        return ModelName(str(folder), folder=folder)
    found = _HUB_ID.fullmatch(text)
    return found and ModelName(text, repo=found["repo"], revision=found["rev"])


def find_model(name: ModelName, *, weights_dir: Path | None) -> ModelFolder:
    """The model's folder, with all that describes it; that is downloaded where it is missing.

    Args:
        name: What is wanted.
        weights_dir: Folder that is looked into first, for ``<org>/<name>`` or ``<org>--<name>``; a
            revision is not looked at there.

    Raises:
        EnvironmentFault: It is on this machine nowhere and cannot be fetched, or is incomplete.
    """
    if name.folder is not None:
        return _open_folder(name.folder, f"folder:{name.folder}")
    candidates = _in_weights_dir(name.repo, weights_dir)
    for candidate in candidates:
        if candidate.is_dir():
            return _open_folder(candidate, f"folder:{candidate}")
    hub = HubModel(name.repo, name.revision, candidates)
    path = find_description(hub)
    return _open_folder(path, f"hub:{name.repo}@{path.name}", hub)


def find_weights_of(folder: ModelFolder, *, need: Need = "files") -> ModelFolder:
    """The same folder with its weights files; they are downloaded where they are missing.

    Args:
        folder: What `find_model` answers.
        need: With ``description`` nothing is downloaded: the hub is asked what the files are.

    Raises:
        EnvironmentFault: They are not on this machine and cannot be fetched, are incomplete, or
            have another hash than the hub gave (they are removed then).
    """
    names = weights_names(folder.path, lambda file: (folder.path / file).is_file())
    lost = [file for file in names if not (folder.path / file).is_file()]
    if names and not lost:
        return _with_files(folder, names)
    if folder.hub is None:
        raise _lacks(folder, lost)
    asked: dict[str, WeightsFile | None] = {}
    names = _names_on_hub(folder, folder.hub, asked)
    found = [asked.get(file) or _ask(folder, folder.hub, file) for file in names]
    promised = tuple(file for file in found if file is not None)
    if len(promised) < len(names):
        raise _lacks(folder, [file for file, w in zip(names, found, strict=True) if w is None])
    if need == "files":
        fetch_files(folder.hub, folder.path, names)
        lost = [file for file in names if not (folder.path / file).is_file()]
        if lost:
            raise _lacks(folder, lost)
        return _with_files(folder, names, {file.file: file.sha256 for file in promised})
    missing = tuple(file for file in promised if not (folder.path / file.file).is_file())
    return replace(folder, weights=promised, missing=missing)


def _with_files(
    folder: ModelFolder, names: tuple[str, ...], promised: Mapping[str, str] | None = None
) -> ModelFolder:
    """The folder with the files that lie there, each compared with the hash that the hub gave.

    Args:
        folder: The model.
        names: Of its weights files.
        promised: SHA-256 of each as the hub said it just now, "" where it said none; for others,
            and for those, the cache tells what the hub said when the file came.
    """
    weights = tuple(describe_file(folder.path / name, folder.source) for name in names)
    if folder.hub is not None:
        _refuse_others(folder.path, folder.hub, weights, promised or {})
    return replace(folder, weights=weights)


def _refuse_others(
    snapshot: Path, hub: HubModel, weights: Sequence[WeightsFile], promised: Mapping[str, str]
) -> None:
    """Remove every file that is not what the hub said, and raise EnvironmentFault about one."""
    faults = []
    for file in weights:
        path = snapshot / file.file
        sha256 = promised.get(file.file) or promised_sha256(path)
        if sha256 not in ("", file.sha256):
            faults.append(damaged_file(hub, path, found=file.sha256, promised=sha256))
    if faults:
        raise faults[0]


def _names_on_hub(
    folder: ModelFolder, hub: HubModel, asked: dict[str, WeightsFile | None]
) -> tuple[str, ...]:
    """Names of a model's weights files there; answers of the hub are kept in ``asked``."""
    if is_offline():
        raise missing_model(hub, "the network is not to be used")

    def has(file: str) -> bool:
        asked[file] = _ask(folder, hub, file)
        return asked[file] is not None

    names = weights_names(folder.path, has)
    if not names:
        raise _lacks(folder, [])
    return names


def _ask(folder: ModelFolder, hub: HubModel, file: str) -> WeightsFile | None:
    return ask_for_file(hub, folder.path, file, source=folder.source)


def _open_folder(path: Path, source: str, hub: HubModel | None = None) -> ModelFolder:
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
    return ModelFolder(path, source, read_settings(path / CONFIG), hub)


def _lacks(folder: ModelFolder, lost: list[str]) -> EnvironmentFault:
    """That a folder has not all of its weights."""
    where = folder.path if folder.hub is None else f"the model {folder.hub.text}"
    whole = " or ".join(kind.whole for kind in FORMATS)
    return EnvironmentFault(
        f"{where} lacks {', '.join(lost[:5]) or f'its weights, {whole}'}{' ...' * (len(lost) > 5)}",
        hint="save the model with save_pretrained() of transformers, or name a revision that has "
        "all of its weights, as in ORG/NAME@refs/pr/1",
    )


def _in_weights_dir(repo: str, weights_dir: Path | None) -> tuple[Path, ...]:
    if weights_dir is None:
        return ()
    return weights_dir / repo, weights_dir / repo.replace("/", "--")
