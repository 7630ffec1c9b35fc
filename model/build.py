"""From plain values, as a recipe or a checkpoint's card holds them, to the network."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from model.clasp import CLASP
from model.loco import LoCo
from pipeline.core.errors import ConfigError

Network = LoCo | CLASP
METHODS: dict[str, type[LoCo] | type[CLASP]] = {"loco": LoCo, "clasp": CLASP}


def build_network(method: str, **arguments: Any) -> Network:
    """A network with fresh weights, from the current random state.

    Args:
        method: A name of `METHODS`.
        **arguments: Of the network's class.

    Raises:
        ConfigError: The method is unknown; or an argument is unknown, missing, or has a value that
            does not fit.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", hint=f"known are {', '.join(METHODS)}")
    network = METHODS[method]
    name_of = network.__name__
    known = inspect.signature(network).parameters
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{name_of} has no argument {name!r}", hint=hint)
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise ConfigError(f"{name_of} lacks {', '.join(missing)}", hint="give each a value")
    try:
        return network(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:  # wrong name, type, or width
        raise ConfigError(f"{name_of} cannot be built: {error}") from error


def build_loco(**arguments: Any) -> LoCo:
    """`LoCo` with fresh weights; see `build_network`."""
    network = build_network("loco", **arguments)
    assert isinstance(network, LoCo)
    return network
