"""Names and scripts that stand for other files, and what cameras put beside their pictures."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from extractors.media.probe import probe
from fixtures.media import run_ffmpeg
from pipeline.core.errors import MediaError

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60


@pytest.fixture
def still(tmp_path: Path) -> Path:
    """A picture of its own."""
    path = tmp_path / "still.png"
    run_ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48:d=0.1", "-frames:v", "1", path)
    return path


@pytest.mark.parametrize("name", ["s%03d.png", "s%*.png", "s%d.jpg"])
def test_a_name_that_is_a_pattern_does_not_read_its_neighbours(still: Path, name: str) -> None:
    for number in range(3):
        shutil.copy(still, still.with_name(f"s{number:03}.png"))
    shutil.copy(still, still.with_name(name))
    with pytest.raises(MediaError, match="is not a media file"):
        probe(still.with_name(name))
    assert probe(still).video is not None, "one picture may be looked at"


SCRIPTS = {
    "concat": "ffconcat version 1.0\nfile '{other}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n",
    "vobsub": "# VobSub index file, v7\nid: en, index: 0\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_does_not_open_what_it_names(tmp_path: Path, script: str) -> None:
    """A pipe without a writer would be waited for, which no exception ends."""
    for name in ("other.ts", "script.sub"):
        os.mkfifo(tmp_path / name)
    path = tmp_path / "script.mp4"
    path.write_text(SCRIPTS[script].format(other="other.ts"))
    words = [sys.executable, "-m", "pipeline", "probe", str(path)]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=REPOSITORY, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1 and "is not a media file" in done.stderr


def with_exif(jpeg: bytes, *, orientation: int) -> bytes:
    entry = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 48)), (6, (48, 64))])
def test_pictures_of_a_camera_with_its_notes_are_read(
    still: Path, orientation: int, size: tuple[int, int]
) -> None:
    """PyAV has no name for EXIF, and refuses to list what lies beside such a frame."""
    jpeg, film = still.with_name("still.jpg"), still.with_name("film.avi")
    run_ffmpeg("-i", still, jpeg)
    jpeg.write_bytes(with_exif(jpeg.read_bytes(), orientation=orientation))
    run_ffmpeg("-f", "image2", "-i", jpeg, "-c:v", "copy", film)
    video = probe(film).video
    assert video is not None and (video.width, video.height) == size and not video.plain
