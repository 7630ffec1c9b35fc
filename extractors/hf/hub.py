"""The Hugging Face hub and its cache: what a model is, and its weights, in two steps.

Configuration, processor and indices have a few hundred kilobytes together. They come first, so
that a model that is not the right one is refused before its weights are fetched, and a dry run can
say what would be fetched. Of the two formats of weights only one is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from extractors.hf.weights import INDICES, LICENCE
from extractors.spec import WeightsFile
from extractors.weights.network import is_offline
from pipeline.core.errors import EnvironmentFault

CONFIG = "config.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# One of these holds what a tokenizer knows.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
# Nothing but these and weights is fetched: no weights of other libraries, no code.
DESCRIPTION = (
    CONFIG,
    *INDICES,
    *PROCESSOR_FILES,
    "video_preprocessor_config.json",
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
INSTALL = "pip install 'davel-pipeline[hf]'"

NOT_FOUND = 404
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub.

    Attributes:
        repo: Its id.
        revision: Branch, tag or commit; None for the newest.
        looked: Folders in which it was looked for before, for messages.
    """

    repo: str
    revision: str | None = None
    looked: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        """As it is written in a backbone's name."""
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def find_description(model: HubModel) -> Path:
    """Folder of a snapshot that says what a model is; fetched where the cache has none.

    Raises:
        EnvironmentFault: It is not in the cache and cannot be fetched.
    """
    hub = _import_hub(model)
    try:
        cached = Path(
            hub.snapshot_download(
                model.repo,
                revision=model.revision,
                allow_patterns=list(DESCRIPTION),
                local_files_only=True,
            )
        )
    except (hub.errors.LocalEntryNotFoundError, hub.errors.CacheNotFound):
        cached = None
    if cached is not None and _is_described(cached):
        return cached
    with _online(hub, model):
        return Path(
            hub.snapshot_download(
                model.repo, revision=model.revision, allow_patterns=list(DESCRIPTION)
            )
        )


def fetch_files(model: HubModel, snapshot: Path, files: Sequence[str]) -> None:
    """Have files of a snapshot on this machine, and all that describes it; said on standard error.

    Raises:
        EnvironmentFault: They cannot be fetched.
    """
    hub = _import_hub(model)
    with _online(hub, model):
        sys.stderr.write(f"downloading the model {model.text} from the Hugging Face hub\n")
        hub.snapshot_download(
            model.repo, revision=snapshot.name, allow_patterns=[*DESCRIPTION, *files]
        )


def ask_for_file(model: HubModel, snapshot: Path, file: str, *, source: str) -> WeightsFile | None:
    """What the hub says of a file, without fetching it; None where a snapshot does not have it.

    Its hash is "" where the hub does not say it.

    Raises:
        EnvironmentFault: The hub does not answer, or may not be asked.
    """
    hub = _import_hub(model)
    with _online(hub, model):
        url = hub.hf_hub_url(model.repo, file, revision=snapshot.name)
        try:
            found = hub.get_hf_file_metadata(url)
        except hub.errors.HfHubHTTPError as error:
            unknown = (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError)
            if isinstance(error, unknown) or error.response.status_code != NOT_FOUND:
                raise
            return None
    sha256 = found.etag if _SHA256.fullmatch(found.etag or "") else ""
    return WeightsFile(file, found.size or 0, sha256, LICENCE, source)


def promised_sha256(path: Path) -> str:
    """Hash that the hub gave for a weights file of its cache when it came; "" where none is known.

    A snapshot holds links to files that are named by what the hub said of them: of files in its
    large storage, which weights are, by their SHA-256.
    """
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else ""


def damaged_file(model: HubModel, path: Path, *, found: str, promised: str) -> EnvironmentFault:
    """Remove a file of the cache that is not what the hub said, so that it can be fetched again.

    Args:
        model: The model.
        path: The file in its snapshot; what it links to is removed, too, inside the model's cache.
        found: SHA-256 of what is there.
        promised: What the hub said.

    Returns:
        The error to raise.
    """
    removed = f"it was removed: the same command fetches {model.text} again"
    content, cache = path.resolve(), path.parents[2].resolve()
    try:
        if content.is_relative_to(cache):
            content.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        removed = f"delete {content}, which failed ({error.strerror}), and try again"
    return EnvironmentFault(
        f"{path.name} of {model.text} has SHA-256 {found} where the hub says {promised}",
        hint=removed,
    )


def missing_model(model: HubModel, why: str) -> EnvironmentFault:
    """That a model is not on this machine, why not, and how it comes there."""
    places = ", ".join([*map(str, model.looked), "the Hugging Face cache"])
    revision = f" --revision {model.revision}" if model.revision else ""
    local = Path(model.repo)
    folder = f"; for the folder of that name write ./{local}" if local.is_dir() else ""
    return EnvironmentFault(
        f"the model {model.text} is not on this machine (looked in {places}): {why}",
        hint=f"with network: hf download {model.repo}{revision}; or copy its folder to "
        f"DIR/{model.repo} and give --weights-dir DIR{folder}",
    )


def _is_described(snapshot: Path) -> bool:
    """Whether a snapshot says what a model is; one that was broken off may be all that there is."""
    whole = is_offline() or any((snapshot / file).is_file() for file in PROCESSOR_FILES)
    return whole and (snapshot / CONFIG).is_file()


def _import_hub(model: HubModel) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise EnvironmentFault(
            f"{model.repo} cannot be looked for: the package huggingface_hub is missing",
            hint=f"{INSTALL}, or name the model's folder by its path",
        ) from error
    return huggingface_hub


@contextmanager
def _online(hub: ModuleType, model: HubModel) -> Iterator[None]:
    """Around what asks the hub: forbidden offline, and what goes wrong is said in one sentence."""
    if is_offline():
        raise missing_model(model, "the network is not to be used")
    # The library has no common class for what goes wrong on the way to the hub.
    unresolved = getattr(hub.errors, "RevisionResolutionError", hub.errors.HTTPError)
    try:
        yield
    except (OSError, ValueError, hub.errors.HTTPError, unresolved) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise missing_model(model, reason) from error
