"""Videos that all lanes extract, and what an undisturbed run makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from extractors.storage.store import FeatureStore
from fixtures.backbones import TOY
from fixtures.media import run_ffmpeg
from workflows.extraction.run import extract

COLOURS = ("lime", "blue", "gray", "white", "orange", "purple")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, colour in enumerate(COLOURS):
        picture = ["-f", "lavfi", "-i", f"color={colour}:s=64x48:r=10:d=2"]
        sound = ["-f", "lavfi", "-i", f"sine={200 * (number + 1)}:d=2", "-c:a", "aac"]
        codec = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
        run_ffmpeg(*picture, *sound, *codec, folder / f"{colour}.mp4")
    return folder


@pytest.fixture(scope="session")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    assert extract([videos], out, backbone=TOY).exit_code == 0
    return FeatureStore.open(out)
