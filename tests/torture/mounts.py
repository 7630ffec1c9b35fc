"""Small disks that a test may fill or lock. They need the right to mount."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A disk in memory with its own limit.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / ".filler"

    def fill(self, *, leave: int) -> None:
        """Write until only ``leave`` pages are free."""
        status = os.statvfs(self.path)
        pages = max(0, status.f_bavail - leave)
        self._filler.write_bytes(bytes(pages * status.f_frsize))
        assert os.statvfs(self.path).f_bavail <= leave

    def make_room(self) -> None:
        """Undo `fill`."""
        self._filler.unlink()

    @contextmanager
    def locked(self) -> Iterator[Path]:
        """The same disk at another place, where it is read-only."""
        view = self.path.with_name("locked")
        view.mkdir(exist_ok=True)
        _mount("--bind", str(self.path), str(view))
        _mount("-o", "remount,bind,ro", str(view))
        try:
            yield view
        finally:
            subprocess.run(["umount", "--lazy", str(view)], check=True)


@contextmanager
def small_disk(path: Path, *, size: str = "512k") -> Iterator[SmallDisk]:
    """Mount one for a while; skips the test where that is not allowed."""
    path.mkdir()
    if sys.platform != "linux":
        pytest.skip("small disks are made with Linux's tmpfs")
    try:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"mounting a small disk is not allowed here: {error}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
