"""Load a net of ``transformers`` from a folder: safetensors only, no code of the model's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from extractors.audio.torchaudio_shim import import_torchaudio
from extractors.hf_families import Pooling
from extractors.hf_files import INSTALL, ModelFolder
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
    if tower:
        whole, config = config, getattr(config, tower)
        if hasattr(whole, "projection_dim"):
            config.projection_dim = whole.projection_dim  # the whole model's is the one that counts
    model, loading = load_part(
        folder,
        "weights",
        getattr(transformers, net).from_pretrained,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
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
    from safetensors import SafetensorError

    try:
        with _quiet():
            return load(str(folder.path), local_files_only=True, **options)
    except ImportError as error:  # a processor needs a package that is not there
        first = str(error).strip().partition("\n")[0]
        raise EnvironmentFault(
            f"the {what} of {folder.path} cannot be loaded: {first}", hint=INSTALL
        ) from error
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise EnvironmentFault(
            f"the {what} of {folder.path} cannot be loaded: {' '.join(lines[:2])[:300]}",
            hint="download the model again, or save it again with save_pretrained()",
        ) from error


def pool(answer: Any, *, output: str, pooling: Pooling) -> Tensor:
    """One vector per item, (n, D), out of a net's answer."""
    value: Tensor = getattr(answer, output)
    if pooling == "class_token":
        return value[:, 0]
    if pooling == "mean":
        return value.mean(dim=1)
    return value


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
