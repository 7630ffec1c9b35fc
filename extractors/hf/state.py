"""The weights of a model of ``transformers`` as tensors that stay in their files until asked for.

Both formats are mapped into memory: a net takes what it needs of them, and nothing is held twice.
The files that are read are those that were hashed, whatever else lies in the folder. Pickles go
through `extractors.checkpoints.unpickle`, so nothing in them is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from extractors.checkpoints.mapped import mapped_tensor
from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.torch_file import find_tensors, open_checkpoint
from extractors.hf.files import ModelFolder
from extractors.hf.weights import is_safetensors
from pipeline.core.errors import EnvironmentFault

AGAIN = "download the model again, or save it again with save_pretrained()"

Reader = Callable[[], Tensor]


class ModelState(Mapping[str, Tensor]):
    """Name to tensor, of all weights files of a model; looked up in the files each time.

    Args:
        readers: Name to what finds the tensor.
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@contextmanager
def open_state(folder: ModelFolder) -> Iterator[ModelState]:
    """The tensors of a model; those that were taken stay when the block ends.

    Args:
        folder: With its weights on this machine; see `extractors.hf.files.find_weights_of`.

    Raises:
        EnvironmentFault: A file cannot be read, is damaged, or asks for code to be run; inside the
            block, too.
    """
    readers: dict[str, Reader] = {}
    with ExitStack() as files:
        for weights in folder.weights:
            path = folder.path / weights.file
            with _refusing(folder, path):
                open_file = _safetensors if is_safetensors(path.name) else _torch
                found = open_file(files, path)
            readers |= {name: partial(_read, folder, path, read) for name, read in found.items()}
        yield ModelState(readers)


def _safetensors(files: ExitStack, path: Path) -> dict[str, Reader]:
    file = files.enter_context(safe_open(path, framework="pt"))
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118


def _torch(files: ExitStack, path: Path) -> dict[str, Reader]:
    tensors = find_tensors(files.enter_context(open_checkpoint(path)))
    mapped = np.memmap(path, np.uint8, mode="c")
    return {name: partial(mapped_tensor, tensor, mapped) for name, tensor in tensors.items()}


def _read(folder: ModelFolder, path: Path, read: Reader) -> Tensor:
    with _refusing(folder, path):
        return read()


@contextmanager
def _refusing(folder: ModelFolder, path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointFault, SafetensorError, OSError) as error:
        raise EnvironmentFault(
            f"the weights of {folder.path} cannot be loaded: {path.name} is refused: {error}",
            hint=f"nothing in it was run; {AGAIN}",
        ) from error
