"""Streams in which nothing happens."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.detection.stillness import Stillness


def rows(steps: int, *, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    there = np.ones(steps, dtype=bool)
    return {
        "vision": scale * rng.normal(size=(steps, 4)),
        "audio": scale * rng.normal(size=(steps, 3)),
        "vision_mask": there,
        "audio_mask": there.copy(),
    }


@pytest.mark.parametrize("name", ["vision", "audio"])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_equal_steps_are_still_and_one_that_differs_is_enough(name: str, scale: float) -> None:
    still = rows(40, scale=scale)
    still[name] = still[name][:1] * (1 + 1e-6 * np.arange(40))[:, None]  # rounding
    watch = Stillness()
    for first in (0, 25):
        watch.add({key: value[first : first + 25] for key, value in still.items()})
    assert watch.still == [name] and watch.missing == []
    (note,) = watch.notes()
    assert {"vision": "darkness or a still", "audio": "silence"}[name] in note
    watch.add(
        {key: value[:1] for key, value in rows(3, scale=scale).items()}
        | {name: still[name][:1] * 1.1}
    )
    assert watch.still == []


def test_steps_that_are_not_there_say_nothing() -> None:
    some = rows(6)
    some["audio"][:] = 0
    some["audio"][2] = 9.0
    some["audio_mask"][2] = False
    watch = Stillness()
    watch.add(some)
    assert watch.still == ["audio"]
    some["audio_mask"][:] = False
    gone = Stillness()
    gone.add(some)
    assert gone.still == [] and gone.missing == ["audio"]
    assert "without sound none can be found" in gone.notes()[0]


def test_a_single_step_cannot_be_still() -> None:
    watch = Stillness()
    watch.add(rows(1))
    assert watch.still == [] and watch.notes() == []
