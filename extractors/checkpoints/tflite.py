"""Read the weights of a TensorFlow Lite model without TensorFlow.

A ``.tflite`` file is one FlatBuffer: tables whose fields lie where a small table of offsets in
front of each says. Of a model with 8-bit weights, what is wanted here are its convolutions and
dense layers in the order in which they are run, their integers times their scales.

Source: the published layout of FlatBuffers and the published schema of TensorFlow Lite (numbers of
fields, operators and types; facts about formats, no code).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.checkpoints.stored_tensor import CheckpointFault

IDENTIFIER = b"TFL3"
SIZE_LIMIT = 1 << 28  # bytes; a file is held in memory
# Numbers of fields.
MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS = 1, 2, 4
CODE_OLD, CODE_NEW = 0, 3  # the old one holds numbers up to 127
GRAPH_TENSORS, GRAPH_OPERATORS = 0, 3
OPERATOR_CODE, OPERATOR_INPUTS = 0, 1
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_SCALING = 0, 1, 2, 4
SCALES, ZERO_POINTS, SCALED_AXIS = 2, 3, 6
# Operators with weights, by their numbers.
KINDS: Mapping[int, str] = {3: "convolution", 4: "depthwise", 9: "dense"}
TYPES: Mapping[int, str] = {2: "<i4", 9: "<i1"}  # of integers that stand for numbers: bias, weight
WEIGHT_TYPE = 9


@dataclass(frozen=True, slots=True)
class TfliteLayer:
    """A layer whose weights are 8-bit integers.

    Attributes:
        kind: ``convolution``, ``depthwise`` or ``dense``.
        weight: float32; (out, H, W, in), (1, H, W, channels) or (out, in).
        bias: (out,) float32.
    """

    kind: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def read_tflite(path: Path) -> list[TfliteLayer]:
    """The layers of a model's first graph that have weights of 8 bits, in the order of the run.

    Raises:
        CheckpointFault: Damaged, cut off, or no such model.
        OSError: The file cannot be read.
    """
    if path.stat().st_size > SIZE_LIMIT:
        raise CheckpointFault("it has more than 256 MiB")
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise CheckpointFault("it is no TensorFlow Lite model")
    try:
        return list(_layers(content))
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise CheckpointFault(f"it is cut off or damaged ({error})") from error


def _layers(content: bytes) -> Iterator[TfliteLayer]:
    model = _Table(content, struct.unpack_from("<I", content)[0])
    codes = [
        max(code.number(CODE_OLD, "<b"), code.number(CODE_NEW, "<i"))
        for code in model.tables(MODEL_CODES)
    ]
    buffers = model.tables(MODEL_BUFFERS)
    graph = model.tables(MODEL_GRAPHS)[0]
    tensors = graph.tables(GRAPH_TENSORS)
    for operator in graph.tables(GRAPH_OPERATORS):
        kind = KINDS.get(codes[operator.number(OPERATOR_CODE, "<I")])
        inputs = operator.array(OPERATOR_INPUTS, "<i4")
        if kind is None or tensors[inputs[1]].number(TENSOR_TYPE, "<b") != WEIGHT_TYPE:
            continue  # no layer, or one of another kind of number, as those of a front end
        if len(inputs) < 3 or inputs[2] < 0:
            raise CheckpointFault("one of its layers is without a bias")
        weight, bias = (_values(tensors[place], buffers) for place in inputs[1:3])
        yield TfliteLayer(kind, weight, bias)


def _values(tensor: _Table, buffers: list[_Table]) -> NDArray[np.float32]:
    """A constant as the numbers that its integers stand for: (integer - zero point) * scale."""
    data = buffers[tensor.number(TENSOR_BUFFER, "<I")].array(0, "u1").tobytes()
    shape = tuple(int(side) for side in tensor.array(TENSOR_SHAPE, "<i4"))
    integers = np.frombuffer(data, TYPES[tensor.number(TENSOR_TYPE, "<b")]).reshape(shape)
    scaling = tensor.table(TENSOR_SCALING)
    scales, zeros = scaling.array(SCALES, "<f4"), scaling.array(ZERO_POINTS, "<i8")
    if len(scales) == 0 or zeros.any():
        raise CheckpointFault("its weights are not scaled around zero")
    along = [1] * len(shape)
    if len(scales) > 1:
        along[scaling.number(SCALED_AXIS, "<i")] = len(scales)
    return (integers.astype(np.float32) * scales.reshape(along)).astype(np.float32)


class _Table:
    """A table of a FlatBuffer.

    Args:
        content: The whole file.
        place: Where the table lies.
    """

    def __init__(self, content: bytes, place: int) -> None:
        self._content, self._place = content, place
        self._offsets = place - struct.unpack_from("<i", content, place)[0]
        self._end: int = struct.unpack_from("<H", content, self._offsets)[0]

    def _field(self, number: int) -> int:
        """Where a field lies; 0 where it is left out."""
        entry = 4 + 2 * number
        if entry >= self._end:
            return 0
        offset: int = struct.unpack_from("<H", self._content, self._offsets + entry)[0]
        return self._place + offset if offset else 0

    def _target(self, number: int) -> int:
        place = self._field(number)
        if not place:
            return 0
        step: int = struct.unpack_from("<I", self._content, place)[0]
        return place + step

    def number(self, number: int, form: str) -> int:
        """A field that is a whole number; 0 where it is left out."""
        place = self._field(number)
        return int(struct.unpack_from(form, self._content, place)[0]) if place else 0

    def array(self, number: int, dtype: str) -> NDArray[Any]:
        """A field that is a row of numbers; an empty one where it is left out."""
        place = self._target(number)
        if not place:
            return np.zeros(0, dtype)
        (count,) = struct.unpack_from("<I", self._content, place)
        return np.frombuffer(self._content, dtype, count, place + 4)

    def table(self, number: int) -> _Table:
        """A field that is a table.

        Raises:
            IndexError: It is left out.
        """
        place = self._target(number)
        if not place:
            raise IndexError(f"field {number} is left out")
        return _Table(self._content, place)

    def tables(self, number: int) -> list[_Table]:
        """A field that is a row of tables."""
        base = self._target(number) + 4
        steps = self.array(number, "<u4")
        return [
            _Table(self._content, base + 4 * index + int(step)) for index, step in enumerate(steps)
        ]
