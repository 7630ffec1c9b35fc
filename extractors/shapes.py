"""Which arrays a backbone yields, and how large their rows are."""

from __future__ import annotations

import numpy as np

from extractors.features import ARRAY_TYPES
from extractors.spec import MODALITIES, BackboneSpec


def array_shapes(spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
    """Arrays that a backbone yields, in the order of `ARRAY_TYPES`, with the shape of one row."""
    shapes: dict[str, tuple[int, ...]] = {}
    for modality in MODALITIES:
        encoder = spec.vision if modality == "vision" else spec.audio
        shapes[modality] = (encoder.dim,)
        shapes[f"{modality}_mask"] = ()
        if encoder.classes:
            shapes[f"{modality}_scores"] = (encoder.classes,)
    return {name: shapes[name] for name in ARRAY_TYPES if name in shapes}


def row_bytes(spec: BackboneSpec) -> int:
    """Bytes that one step takes in a store."""
    return sum(
        np.dtype(ARRAY_TYPES[name]).itemsize * int(np.prod(shape, dtype=np.int64))
        for name, shape in array_shapes(spec).items()
    )
