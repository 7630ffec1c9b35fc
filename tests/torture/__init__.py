"""Lanes that try to break extraction; reduced in the suite, in full by ``make torture``.

``TORTURE=full`` in the environment turns on the full size.
"""

from __future__ import annotations

import os

FULL = os.environ.get("TORTURE", "") == "full"


def sized(reduced: int, full: int) -> int:
    """How often to do something here."""
    return full if FULL else reduced
