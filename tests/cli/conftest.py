"""A short film for the command line, made with the ffmpeg that comes with the program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from extractors.media.ffmpeg import ffmpeg_binary


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a moving test picture with a tone, H.264 and AAC."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    command = [ffmpeg_binary(), "-nostdin", "-v", "error"]
    command += ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2"]
    command += ["-f", "lavfi", "-i", "sine=f=440:r=44100:d=2", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, f"file:{path}"], check=True)
    return path
