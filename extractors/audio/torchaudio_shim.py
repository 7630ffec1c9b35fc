"""Import torchaudio beside a torch without CUDA.

The torchaudio wheel of the Python package index holds a library linked to CUDA. Beside a CPU-only
torch, ``import torchaudio`` therefore fails with OSError, and transformers' feature extractors
with it. The Python part (transforms, functional, compliance) needs none of that library: its
loader is replaced by a module that says "no extension", and the import repeated.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, NoReturn

from pipeline.core.errors import EnvironmentFault

_EXTENSION = "torchaudio._extension"


def import_torchaudio() -> ModuleType:
    """The torchaudio module, with its compiled extension where that loads, else without.

    Call it before transformers is imported. Without the extension, forced alignment and the
    RNN-T loss are missing; transforms and resampling work.

    Raises:
        EnvironmentFault: torchaudio is not installed, or fails for another reason.
    """
    try:
        return importlib.import_module("torchaudio")
    except ImportError as error:
        raise EnvironmentFault(
            f"torchaudio cannot be imported: {error}", hint="pip install torchaudio"
        ) from error
    except OSError:
        _forget_torchaudio()
    sys.modules[_EXTENSION] = _without_extension()
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError) as error:
        _forget_torchaudio()
        raise EnvironmentFault(
            f"torchaudio cannot be imported, not even without its compiled extension: {error}",
            hint="install the torchaudio that belongs to this torch",
        ) from error


def _forget_torchaudio() -> None:
    """Remove what a failed import left behind, so that it can be tried again."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _without_extension() -> ModuleType:
    """Stand-in for the module that loads the compiled library: the names torchaudio asks it for."""

    def fail(function: Any = None, *_: Any, **__: Any) -> Any:
        """Decorator of the functions that need the library: they fail when called."""

        def missing(*_: Any, **__: Any) -> NoReturn:
            name = getattr(function, "__name__", "this function")
            raise RuntimeError(f"{name} needs torchaudio's compiled extension, which does not load")

        return missing

    module = ModuleType(_EXTENSION)
    names: dict[str, Any] = {
        "_IS_TORCHAUDIO_EXT_AVAILABLE": False,
        "_IS_ALIGN_AVAILABLE": False,
        "_IS_RIR_AVAILABLE": False,
        "_check_cuda_version": lambda: None,
        "fail_if_no_align": fail,
        "fail_if_no_rir": fail,
    }
    for name, value in names.items():
        setattr(module, name, value)
    return module
