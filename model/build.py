"""From plain values, as a recipe or a checkpoint's card holds them, to the network."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from model.loco import LoCo
from pipeline.core.errors import ConfigError


def build_loco(**arguments: Any) -> LoCo:
    """`LoCo` with fresh weights, from the current random state.

    Args:
        **arguments: Of `LoCo`.

    Raises:
        ConfigError: An argument is unknown, missing, or has a value that does not fit.
    """
    known = inspect.signature(LoCo).parameters
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"LoCo has no argument {name!r}", hint=hint)
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise ConfigError(f"LoCo lacks {', '.join(missing)}", hint="give each a value")
    try:
        return LoCo(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:  # wrong name, type, or width
        raise ConfigError(f"LoCo cannot be built: {error}") from error
