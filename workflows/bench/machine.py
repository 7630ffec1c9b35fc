"""What a measurement ran on: the machine, the versions, the state of the source."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.core.cores import core_count

ROOT = Path(__file__).parents[2]
PACKAGES = ("davel-pipeline", "torch", "numpy", "av", "decord", "dask", "safetensors")
PROCESSOR_FILE, MEMORY_FILE = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory in bytes, system and CUDA devices, as plain values.

    The load is that of the last minute: figures of a busy machine are not those of an idle one.
    """
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "usable_cores": core_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpus": _gpus(),
        "threads": _torch_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python, ffmpeg and the packages that decide the figures."""
    from extractors.media.ffmpeg import ffmpeg_binary, ffmpeg_version
    from pipeline.core.errors import EnvironmentFault

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        found["ffmpeg"] = ffmpeg_version(ffmpeg_binary())
    except EnvironmentFault:
        found["ffmpeg"] = "none"
    return found


def commit() -> str:
    """Short id of the commit, ``-changed`` behind it where files differ; "" outside a checkout."""
    top = _git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != ROOT.resolve():
        return ""  # an installed program may lie inside somebody else's checkout
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def machine_line() -> str:
    """Processor, cores, Python, torch and commit, for the head of a benchmark."""
    import torch

    return (
        f"{os.cpu_count()} x {processor_name()}, Python {platform.python_version()}, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"commit {commit() or 'unknown'}"
    )


def processor_name() -> str:
    """Name of the processor as its maker writes it, else its kind."""
    if PROCESSOR_FILE.exists():
        for line in PROCESSOR_FILE.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if not MEMORY_FILE.exists():
        return None
    lines = MEMORY_FILE.read_text().splitlines()
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal")), None
    )


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words],  # noqa: S607
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
