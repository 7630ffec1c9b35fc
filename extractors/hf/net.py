"""Load a net of ``transformers`` from a folder, without any code of the model's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from extractors.audio.torchaudio_shim import import_torchaudio
from extractors.hf.families import Family
from extractors.hf.files import ModelFolder
from extractors.hf.hub import INSTALL
from extractors.hf.model import HfModel
from extractors.hf.state import AGAIN, open_state
from pipeline.core.errors import EnvironmentFault

T = TypeVar("T")


def import_transformers() -> ModuleType:
    """The transformers module.

    Raises:
        EnvironmentFault: It is not installed, or cannot be imported.
    """
    import_torchaudio()  # its processors cannot be imported beside a torchaudio that fails
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise EnvironmentFault(
            f"the package transformers cannot be imported: {error}", hint=INSTALL
        ) from error


def load_net(
    folder: ModelFolder, net: str, *, tower: str, unused: tuple[str, ...], device: torch.device
) -> nn.Module:
    """A net with its weights, in float32, ready to be run.

    Args:
        folder: The model.
        net: Class of ``transformers``.
        tower: Part of the configuration that describes the net; "" for all of it.
        unused: Tensors that may be missing.
        device: Where it goes.

    Raises:
        EnvironmentFault: The package is missing, or the weights are damaged or of another net.
    """
    transformers = import_transformers()
    config = load_part(folder, "configuration", transformers.AutoConfig.from_pretrained)
    # A configuration may name a repository of the hub whose native code computes the attention.
    config._attn_implementation = None
    if tower:
        whole, config = config, getattr(config, tower)
        if hasattr(whole, "projection_dim"):
            config.projection_dim = whole.projection_dim  # the whole model's is the one that counts
    load = getattr(transformers, net).from_pretrained
    with open_state(folder) as state, _loading(folder, "weights"):
        # Not by the folder's name: the configuration may name other files, which were not hashed.
        model, loading = load(
            None,
            config=config,
            state_dict=dict(state),
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted(set(loading["missing_keys"]) - set(unused))
    if missing:
        raise EnvironmentFault(
            f"the weights in {folder.path} lack {len(missing)} of the tensors of {net}, the first "
            f"is {missing[0]}",
            hint="the configuration and the weights do not belong together: download both again",
        )
    module: nn.Module = model.eval().requires_grad_(False).to(device)
    return module


def load_encoder(
    model: HfModel, what: str, processor: str, *, device: torch.device, **options: Any
) -> tuple[Any, nn.Module]:
    """What an encoder consists of: the model's own preprocessing, and its net.

    Args:
        model: What it is and where it lies.
        what: The preprocessing, in words, for messages.
        processor: Class of ``transformers`` that loads it.
        device: Where the net goes.
        **options: Of the preprocessing.

    Raises:
        EnvironmentFault: The package ``transformers`` or one that it needs is missing, or the
            model's files are damaged or do not belong together.
    """
    family, folder = model.family, model.folder
    load = getattr(import_transformers(), processor).from_pretrained
    prepare = load_part(folder, what, load, **options)
    net = load_net(folder, family.net, tower=family.tower, unused=family.unused, device=device)
    return prepare, net


def load_part(folder: ModelFolder, what: str, load: Callable[..., T], **options: Any) -> T:
    """Call a ``from_pretrained`` on a folder, without network, foreign code or chatter.

    Args:
        folder: The model.
        what: Which part of it, for the message.
        load: The method.
        **options: Its further arguments.

    Raises:
        EnvironmentFault: That part is missing, damaged or does not fit.
    """
    with _loading(folder, what):
        # Where this is left open, the user is asked whether the folder's own code may be run.
        return load(str(folder.path), local_files_only=True, trust_remote_code=False, **options)


def pool(answer: Any, family: Family) -> Tensor:
    """One vector per item, (n, D), out of the answer of a family's net."""
    value: Tensor = getattr(answer, family.output)
    if family.pooling == "class_token":
        return value[:, 0]
    if family.pooling == "mean":
        return value.mean(dim=1)
    return value


@contextmanager
def _loading(folder: ModelFolder, what: str) -> Iterator[None]:
    """Around whatever of the library reads a part of a model: quiet, and its failures named."""
    try:
        with _quiet():
            yield
    except ImportError as error:  # a processor needs a package that is not there
        first = str(error).strip().partition("\n")[0]
        raise EnvironmentFault(
            f"the {what} of {folder.path} cannot be loaded: {first}", hint=INSTALL
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise EnvironmentFault(
            f"the {what} of {folder.path} cannot be loaded: {' '.join(lines[:2])[:300]}",
            hint=AGAIN,
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about the tower that is not loaded, and no bar for a load of a second."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
