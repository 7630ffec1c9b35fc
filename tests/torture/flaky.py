"""A network folder that is slow and now and then does not answer."""

from __future__ import annotations

import errno
import io
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# What the store asks the file system for. Builtin open and Path.open end in io.open.
OPERATIONS: tuple[tuple[Any, str], ...] = (
    (io, "open"),
    (os, "open"),
    (os, "replace"),
    (os, "fsync"),
    (os, "unlink"),
    (os, "scandir"),
    (os, "stat"),
    (tempfile, "TemporaryFile"),
)
ERRORS = (errno.EIO, errno.ESTALE)


class FlakyFolder:
    """Counts and disturbs the operations on files below a folder.

    Args:
        folder: The folder.
        delay: Seconds that each operation takes.
        share: Share of operations that fail.
        seed: Of which ones.
    """

    def __init__(self, folder: Path, *, delay: float, share: float, seed: int) -> None:
        self.asked = 0
        self.failed = 0
        self._folder = str(folder)
        self._delay = delay
        self._share = share
        self._random = random.Random(seed)

    def disturb(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Wait, and fail by chance, where the operation is on the folder."""
        places = [*arguments, options.get("dir")]
        named = [str(p) for p in places if isinstance(p, str | os.PathLike)]
        if not any(name.startswith(self._folder) for name in named):
            return
        self.asked += 1
        time.sleep(self._delay)
        if self._random.random() < self._share:
            self.failed += 1
            number = self._random.choice(ERRORS)
            raise OSError(number, os.strerror(number), named[0])


@contextmanager
def flaky_folder(
    folder: Path, *, delay: float = 0.0, share: float = 0.0, seed: int = 0
) -> Iterator[FlakyFolder]:
    """Disturb this process's operations on a folder for a while."""
    flaky = FlakyFolder(folder, delay=delay, share=share, seed=seed)

    def disturbed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            flaky.disturb(arguments, options)
            return original(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, disturbed(getattr(owner, name)))
        yield flaky
