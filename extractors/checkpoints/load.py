"""Load the weights of a foreign checkpoint that is small enough to be held in memory."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from extractors.checkpoints.mapped import tensor_in_memory
from extractors.checkpoints.stored_tensor import CheckpointFault
from extractors.checkpoints.torch_file import find_tensors, open_checkpoint
from extractors.spec import WeightsFile
from extractors.weights.check import describe_weights
from pipeline.core.errors import EnvironmentFault


def load_state(path: Path, weights: WeightsFile, *keys: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, in memory; nothing in the file is run.

    Args:
        path: A file of ``torch.save`` in either layout, or a bare pickle.
        weights: What it should be, for messages.
        keys: Names under which the state dict may lie; the file itself is taken where none does.

    Returns:
        Name to tensor, with the file's own names and types.

    Raises:
        EnvironmentFault: The file cannot be read, is damaged, or asks for code to be run.
    """
    try:
        with open_checkpoint(path) as content:
            tensors = find_tensors(content, *keys)
            return {name: tensor_in_memory(tensor) for name, tensor in tensors.items()}
    except CheckpointFault as error:
        raise EnvironmentFault(
            f"{path} is refused: {error}", hint=f"it should be {describe_weights(weights)}"
        ) from error
    except OSError as error:
        raise EnvironmentFault(f"{path}: the weights cannot be read ({error.strerror})") from error
