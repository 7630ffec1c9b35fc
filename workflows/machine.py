"""What this machine offers, without asking a driver or a framework."""

from __future__ import annotations

import os
from pathlib import Path


def local_gpus() -> list[str]:
    """Numbers or names of the GPUs that this process may use, without asking their driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    devices = sorted(
        int(path.name.removeprefix("nvidia"))
        for path in Path("/dev").glob("nvidia*")
        if path.name.removeprefix("nvidia").isdigit()
    )
    return [str(number) for number in range(len(devices))]
