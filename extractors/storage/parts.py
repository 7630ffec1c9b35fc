"""What lies in a store's folder, and that it lies there and nowhere else."""

from __future__ import annotations

import stat
from pathlib import Path

from pipeline.core.errors import StoreError

FOLDERS = ("videos", "shards", "ledger")
FILES = ("store.json", "index.sqlite", "locks")


def check_parts(path: Path) -> None:
    """Refuse a store that reaches out of its folder.

    A store may come from strangers. Through a linked part of it, files would be written or removed
    wherever the link leads. The store's own folder may be a link: that one the user made or named.

    Args:
        path: Folder of the store.

    Raises:
        StoreError: A part is a link, a file in place of a folder, or the other way round.
    """
    for names, kind, word in ((FOLDERS, stat.S_IFDIR, "folder"), (FILES, stat.S_IFREG, "file")):
        for name in names:
            part = path / name
            try:
                found = stat.S_IFMT(part.lstat().st_mode)
            except OSError:  # not there; what cannot be looked at is told of by what needs it
                continue
            if found == stat.S_IFLNK:
                raise StoreError(
                    f"{part} is a link, and the parts of a store must lie in its own folder",
                    hint=f"put the {word} itself there (cp -rL copies a store and what its links "
                    "lead to); only the folder of the whole store may be a link",
                )
            if found != kind:
                raise StoreError(f"{part} is no {word}", hint="move it out of the store")
