"""ONE-PEACE's checkpoints: each branch is converted once, and loaded without a second copy.

A branch is a part of a file of 6 to 16 GB. It is copied, tensor by tensor and under the names of
our nets, into a safetensors file beside it, which is what gets loaded from then on. Both ways hold
no more than one tensor at a time beside the net itself; only ``one-peace-vision.pkl``, a bare
pickle, has to be in memory once, while it is converted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from extractors.checkpoints.check import refuse_other_net
from extractors.checkpoints.stored_tensor import CheckpointFault, StoredTensor
from extractors.checkpoints.torch_file import find_tensors, open_checkpoint
from extractors.onepeace.conversions import (
    CONVERSION,
    HASH_FIELD,
    converted_name,
    find_converted,
)
from extractors.onepeace.keys import Branch, translate
from extractors.onepeace.spec import OnePeaceSize, Precision
from extractors.spec import WeightsFile
from extractors.storage.safetensors_io import (
    FormatFault,
    TensorSource,
    read_header,
    value_offset,
    write_tensors,
)
from extractors.weights.check import describe_weights
from extractors.weights.find import cache_folder, find_weights
from pipeline.core.atomic import atomic_file
from pipeline.core.errors import EnvironmentFault
from pipeline.core.locks import LockFile

LOCK_FILE = ".onepeace.lock"
UNKNOWN_HASH = "0" * 64  # stands in the header until the tensors have been written

# Types that safetensors files of this project hold; others become float32.
KEPT_TYPES = {"float32": "<f4", "float16": "<f2"}


Net = TypeVar("Net", bound=nn.Module)


def load_branch(
    make: Callable[[OnePeaceSize], Net],
    branch: Branch,
    weights: WeightsFile,
    *,
    size: OnePeaceSize,
    device: torch.device,
    precision: Precision,
    weights_dir: str | os.PathLike[str] | None,
) -> Net:
    """A branch with its weights; its checkpoint is converted where that has not been done.

    Args:
        make: Makes the net of these measures; called where parameters take no memory.
        branch: Which branch.
        weights: The checkpoint that it is a part of.
        size: Its measures.
        device: Where it is loaded to.
        precision: Type that its weights get.
        weights_dir: Folder of the checkpoint or of what it was converted to.

    Raises:
        EnvironmentFault: The weights are missing, damaged, of another net, or cannot be converted.
    """
    with torch.device("meta"):
        net = make(size)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    path = converted_branch(branch, weights, shapes, weights_dir=weights_dir)
    dtype = getattr(torch, precision)
    try:
        with safe_open(path, framework="pt") as file:
            # One after the other: the file's pages can be let go before the next is read.
            state = {
                name: file.get_tensor(name).to(device=device, dtype=dtype)
                for name in file.keys()  # noqa: SIM118 - the file is no mapping
            }
    except (SafetensorError, OSError) as error:
        raise EnvironmentFault(f"{path}: the weights cannot be read ({error})") from error
    net.load_state_dict(state, strict=True, assign=True)
    return net.requires_grad_(False)


def converted_branch(
    branch: Branch,
    weights: WeightsFile,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    weights_dir: str | os.PathLike[str] | None,
) -> Path:
    """The branch's own file, converted now where that has not been done.

    Args:
        branch: Which branch.
        weights: The checkpoint.
        shapes: What the net wants: name to shape.
        weights_dir: Folder of the checkpoint or of what it was converted to.

    Raises:
        EnvironmentFault: The weights are missing, damaged, of another net, or cannot be converted.
    """
    # A branch that was converted is enough: the checkpoint may have been deleted since.
    for folder in _folders(weights_dir):
        if (folder / weights.file).exists():
            break
        alone = find_converted(folder, branch, weights)
        if alone is not None:
            return _checked(alone, shapes, weights)
    source = find_weights(weights, weights_dir=weights_dir)
    target = source.with_name(converted_name(branch))
    try:
        with LockFile(source.with_name(LOCK_FILE)).hold(branch, wait=True):
            if not _is_conversion_of(target, source):
                convert_branch(source, branch, shapes, target, weights=weights)
    except OSError as error:
        raise EnvironmentFault(
            f"{source} cannot be converted into {target.name} beside it ({error.strerror})",
            hint="put the weights into a folder that can be written to, with room for a copy",
        ) from error
    return _checked(target, shapes, weights)


def convert_branch(
    source: Path,
    branch: Branch,
    shapes: Mapping[str, tuple[int, ...]],
    target: Path,
    *,
    weights: WeightsFile,
) -> None:
    """Copy one branch of a checkpoint into a safetensors file under our names.

    Args:
        source: The checkpoint.
        branch: Which branch.
        shapes: What the net wants: name to shape.
        target: File to write; it is there whole or not at all.
        weights: Description of the checkpoint, for messages.

    Raises:
        EnvironmentFault: The checkpoint is damaged, hostile, or of another net.
        OSError: Not enough room, or no permission.
    """
    try:
        # Asked before reading: what is put in its place meanwhile has another.
        state = _state_of(source)
        with open_checkpoint(source) as content:
            tensors = _branch_tensors(find_tensors(content, "state_dict", "model"), branch)
            found = {name: tensor.shape for name, tensor in tensors.items()}
            refuse_other_net(source, shapes, found, weights)
            metadata = {
                "conversion": CONVERSION,
                "branch": branch,
                **state,
                HASH_FIELD: UNKNOWN_HASH,
            }
            digest = hashlib.sha256()
            sources = [_source(name, tensor, digest) for name, tensor in tensors.items()]
            with atomic_file(target) as handle:
                write_tensors(handle, sources, metadata)
                handle.seek(value_offset(metadata, HASH_FIELD))
                handle.write(digest.hexdigest().encode())
    except CheckpointFault as error:
        raise EnvironmentFault(
            f"{source} is refused: {error}", hint=f"it should be {describe_weights(weights)}"
        ) from error


def _folders(weights_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Where a branch may lie, the named folder first."""
    if weights_dir is not None:
        yield Path(weights_dir)
    yield cache_folder()


def _is_conversion_of(target: Path, source: Path) -> bool:
    """Whether a file is what the checkpoint, as it is now, is converted to."""
    try:
        metadata = read_header(target).metadata
    except (FormatFault, OSError):
        return False
    current = {"conversion": CONVERSION, **_state_of(source)}
    return all(metadata.get(key) == value for key, value in current.items())


def _state_of(source: Path) -> dict[str, str]:
    """What a checkpoint is known by, without reading its gigabytes: name, size, time of change.

    Fine-tuning changes neither name nor size. A conversion that does not say the time, as those of
    earlier programs, may be of another one and is made again while the checkpoint is there.
    """
    state = source.stat()
    return {
        "source": source.name,
        "source_bytes": str(state.st_size),
        "source_modified_ns": str(state.st_mtime_ns),
    }


def _checked(path: Path, shapes: Mapping[str, tuple[int, ...]], weights: WeightsFile) -> Path:
    try:
        file = read_header(path)
        found = {name: file.place(name).shape for name in file.fields}
        if file.metadata.get("conversion") != CONVERSION:
            raise FormatFault("it was not made by this version of the program")
    except (FormatFault, OSError) as error:
        raise EnvironmentFault(
            f"{path} is refused: {error}",
            hint=f"delete it and put {weights.file} there, from which it is made again",
        ) from error
    refuse_other_net(path, shapes, found, weights)
    return path


def _branch_tensors(tensors: Mapping[str, StoredTensor], branch: Branch) -> dict[str, StoredTensor]:
    ours = translate(branch)
    named = ((ours(key), tensor) for key, tensor in tensors.items())
    return {name: tensor for name, tensor in named if name is not None}


def _source(name: str, tensor: StoredTensor, digest: hashlib._Hash) -> TensorSource:
    """What is written of a tensor; its bytes go through the digest as they are written."""
    code = KEPT_TYPES.get(tensor.dtype, "<f4")
    return TensorSource(name, code, tensor.shape, _hashed(_converted(tensor), digest))


def _hashed(chunks: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _converted(tensor: StoredTensor) -> Iterator[bytes]:
    """The tensor's bytes, as float32 where its type is not kept."""
    if tensor.dtype in KEPT_TYPES:
        yield from tensor.chunks()
    elif tensor.dtype == "bfloat16":  # the upper half of a float32
        for chunk in tensor.chunks():
            yield (np.frombuffer(chunk, "<u2").astype("<u4") << 16).tobytes()
    elif tensor.dtype == "float64":
        for chunk in tensor.chunks():
            yield np.frombuffer(chunk, "<f8").astype("<f4").tobytes()
    else:
        raise CheckpointFault(f"one of its weights is of type {tensor.dtype}")
