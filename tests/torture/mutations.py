"""Damage of the kinds that disks, networks and half-finished downloads do to files."""

from __future__ import annotations

import random
from collections.abc import Callable


def flip_bits(data: bytearray, rng: random.Random) -> bytearray:
    """Turn over single bits in up to forty places."""
    for _ in range(rng.randint(1, 40)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def zero_runs(data: bytearray, rng: random.Random) -> bytearray:
    """Blank up to four stretches, as sectors that were never written."""
    for _ in range(rng.randint(1, 4)):
        start, length = _stretch(data, rng)
        data[start : start + length] = bytes(length)
    return data


def cut_end(data: bytearray, rng: random.Random) -> bytearray:
    """Lose the end, as a download that broke off."""
    return data[: rng.randrange(1, len(data))]


def delete_runs(data: bytearray, rng: random.Random) -> bytearray:
    """Lose up to four stretches in the middle; what follows moves up."""
    for _ in range(rng.randint(1, 4)):
        start, length = _stretch(data, rng)
        del data[start : start + length]
    return data


def _stretch(data: bytearray, rng: random.Random) -> tuple[int, int]:
    length = max(1, min(len(data) // 10, int(2 ** rng.uniform(0, 14))))
    return rng.randrange(max(1, len(data) - length)), length


MUTATIONS: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "flips": flip_bits,
    "zero-runs": zero_runs,
    "cut": cut_end,
    "deletions": delete_runs,
}
