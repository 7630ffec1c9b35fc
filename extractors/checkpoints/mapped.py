"""Tensors of a foreign checkpoint: mapped into memory where they lie, or copied into it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.checkpoints.stored_tensor import ITEM_BYTES, StoredTensor
from extractors.checkpoints.torch_file import FileStorage


def mapped_tensor(tensor: StoredTensor, file: NDArray[np.uint8]) -> Tensor:
    """A tensor whose bytes are those of the file, read by the system when they are used.

    Writing to it changes its own memory only. What does not lie in the file by itself, or not on a
    boundary of its type, is copied.

    Args:
        tensor: As `extractors.checkpoints.torch_file.open_checkpoint` finds it.
        file: The whole file, mapped copy-on-write.

    Raises:
        CheckpointFault: The file is damaged there.
    """
    storage = tensor.storage
    if not isinstance(storage, FileStorage) or storage.begin % ITEM_BYTES[storage.dtype]:
        return tensor_in_memory(tensor)
    storage.check()
    values = torch.from_numpy(file[storage.begin : storage.begin + storage.nbytes])
    typed = values.view(getattr(torch, storage.dtype))
    return typed.as_strided(tensor.shape, tensor.strides, tensor.offset)


def tensor_in_memory(tensor: StoredTensor) -> Tensor:
    """A copy of a tensor.

    Raises:
        CheckpointFault: The file is damaged there.
    """
    dtype = getattr(torch, tensor.dtype)
    if 0 in tensor.shape:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(bytearray().join(tensor.chunks()), dtype=dtype).view(tensor.shape)
