"""What the parts of a store need of it: its writer and its packer know no more than this."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from extractors.spec import BackboneSpec
from extractors.storage.index import ShardIndex
from extractors.storage.records import Record
from pipeline.core.ledger import Ledger
from pipeline.core.locks import LockFile


class StoreView(Protocol):
    """A store from inside; see `extractors.storage.store.FeatureStore`.

    Attributes:
        path: Its folder.
        spec: The backbone of its features.
        digest: That backbone's digest.
        ledger: What became of each video.
    """

    path: Path
    spec: BackboneSpec
    digest: str
    ledger: Ledger

    @property
    def index(self) -> ShardIndex:
        """Which video is in which shard."""
        ...

    @property
    def locks(self) -> LockFile:
        """The store's locks."""
        ...

    def get(self, id: str) -> Record | None:
        """The record of a video; None where it is not in the store."""
        ...

    def loose_path(self, id: str) -> Path:
        """Where a video's own small file lies, or would lie."""
        ...

    def loose_paths(self) -> list[Path]:
        """All small files."""
        ...
