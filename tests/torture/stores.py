"""What a store must be in the end, whatever happened on the way."""

from __future__ import annotations

from pathlib import Path

from extractors.storage.store import FeatureStore
from pipeline.core.atomic import TEMP_SUFFIX


def assert_sound(out: Path) -> FeatureStore:
    """What is there is whole, and nothing half-written lies beside it."""
    store = FeatureStore.open(out)
    assert list(store.verify()) == []
    assert not [path.name for path in out.rglob(f"*{TEMP_SUFFIX}")]
    return store


def assert_same(out: Path, expected: FeatureStore) -> None:
    """Array for array, bit for bit, and nothing of it damaged."""
    store = FeatureStore.open(out)
    assert store.ids() == expected.ids()
    for id in expected.ids():
        one, other = store.read(id), expected.read(id)
        assert one.summary == other.summary
        for name, array in other.arrays.items():
            assert one.arrays[name].tobytes() == array.tobytes(), (id, name)
    assert list(store.verify()) == []
