"""Files in which every step shows another picture than the one before, and none is silent.

So a step that stands still or is silent was not decoded, whatever its mask says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from extractors.features import Features
from fixtures.media import run_ffmpeg

SECONDS = 8
PICTURE = ("-f", "lavfi", "-i", f"testsrc2=s=96x72:r=25:d={SECONDS}")
SOUND = ("-f", "lavfi", "-i", f"sine=440:d={SECONDS}")
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "25")
AAC = ("-c:a", "aac")

FORMATS: dict[str, tuple[str, ...]] = {
    "clip.mp4": (*H264, *AAC),
    "clip.mkv": (*H264, *AAC),
    "clip.ts": (*H264, *AAC),
    "clip.avi": ("-c:v", "mpeg4", "-q:v", "4", "-g", "25", "-c:a", "mp3"),
    "clip.mpg": ("-c:v", "mpeg2video", "-q:v", "4", "-c:a", "mp2"),
    "clip.ogv": ("-c:v", "libtheora", "-q:v", "7", "-g", "25", "-c:a", "libvorbis"),
    "clip.flv": (*H264, *AAC),
    "clip.wmv": ("-c:v", "wmv2", "-q:v", "4", "-g", "25", "-c:a", "wmav2"),
    # Not families of their own, but other paths through the readers.
    "fragments.mp4": (*H264, *AAC, "-movflags", "frag_keyframe+empty_moov"),
    "clip.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25"),
}

STILL = 1e-6  # change of the mean colour; undamaged, it is never as small
SILENT = 1e-3  # root mean square


def make(name: str, folder: Path) -> Path:
    """The file of that name, made when it is first asked for."""
    path = folder / name
    if not path.exists():
        run_ffmpeg(*PICTURE, *SOUND, *FORMATS[name], path)
    return path


def hollow_steps(found: Features) -> dict[str, int]:
    """Steps of each modality that claim to hold something and do not."""
    seen, heard = found["vision_mask"], found["audio_mask"]
    change = np.abs(np.diff(found["vision"], axis=0)).max(axis=1, initial=0.0)
    still = (change < STILL) & seen[1:] & seen[:-1]
    silent = (found["audio"][:, 0] < SILENT) & heard
    return {"vision": int(still.sum()), "audio": int(silent.sum())}
