"""Compare the tensors of a foreign checkpoint with those that a net wants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from extractors.spec import WeightsFile
from extractors.weights.check import describe_weights
from pipeline.core.errors import EnvironmentFault

NAMED = 3  # tensors that an error names

Shapes = Mapping[str, tuple[int, ...]]


def refuse_other_net(path: Path, wanted: Shapes, found: Shapes, weights: WeightsFile) -> None:
    """Say what differs where names or shapes are not those of the net.

    Args:
        path: The checkpoint.
        wanted: Name to shape of what the net has.
        found: Name to shape of what the checkpoint holds.
        weights: What it should be, for the message.

    Raises:
        EnvironmentFault: Something is missing, unknown, or of another shape.
    """
    wrong = [
        f"{name} is {_times(found[name])} instead of {_times(wanted[name])}"
        for name in sorted(wanted)
        if name in found and found[name] != wanted[name]
    ]
    groups = (
        ("are missing", sorted(set(wanted) - set(found))),
        ("are unknown", sorted(set(found) - set(wanted))),
        ("have another shape", wrong),
    )
    parts = [
        f"{len(names)} tensors {verb}: {', '.join(names[:NAMED])}{' ...' * (len(names) > NAMED)}"
        for verb, names in groups
        if names
    ]
    if parts:
        raise EnvironmentFault(
            f"{path} holds the weights of another net: {'; '.join(parts)}",
            hint=f"it should be {describe_weights(weights)}",
        )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
