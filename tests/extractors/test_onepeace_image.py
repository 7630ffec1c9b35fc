"""ONE-PEACE's image branch in the place of the video branch: frames in the space of the sound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.audio.onepeace import load_onepeace_audio
from extractors.catalogue import find_entries
from extractors.grids import OWN_GRID, UNAV_GRID
from extractors.media.probe import probe
from extractors.media.video import open_video
from extractors.onepeace.backbone import OnePeaceLoader
from extractors.onepeace.conversions import usable_conversion
from extractors.onepeace.spec import BASE_WEIGHTS, onepeace_image_spec, onepeace_vision_spec
from extractors.preview import preview_spec
from extractors.registry import backbone_spec, load_backbone
from extractors.spec import Backbone, BackboneSpec, FramePreparer
from extractors.stream import extract_features
from extractors.vision.onepeace import load_onepeace_image
from extractors.vision.onepeace_image import OnePeaceImageEncoder
from extractors.vision.resize import resize
from extractors.weights.watch import Silent
from extractors.windows import WindowGrid
from fixtures.media import Zoo
from fixtures.onepeace import TINY, write_base, write_vision
from pipeline.cli import main
from pipeline.core.errors import EnvironmentFault

CPU = torch.device("cpu")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Notebook(Silent):
    """Writes down what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("weights")).parent


def narrow(
    weights: Path,
    grid: WindowGrid = OWN_GRID,
    *,
    describe: Callable[[WindowGrid], BackboneSpec] = onepeace_image_spec,
) -> Backbone:
    spec = describe(grid)
    vision, audio = (replace(encoder, dim=TINY.dim) for encoder in (spec.vision, spec.audio))
    loader = OnePeaceLoader(replace(spec, vision=vision, audio=audio), size=TINY)
    return loader(device="cpu", threads=1, weights_dir=weights)


def picture(width: int, height: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "sha256"),
    [
        ((320, 240), "12ee078cb160147470c00433dcc5e86498bc4682f095ea55355459570aa64e89"),
        ((1280, 720), "d93442aa7a0555e06d851355460e3e2ae71dbff68b3854dde9e980e74d0a0f5a"),
        ((77, 100), "34f3670827dc8d8b80f853c54fc8870103849771712a18d66c2716567eb5c495"),
        ((256, 100), "9690c450dcd8eab94fecaca32e6602c695c4a13b5c6ebdb40d88417eb1905418"),
    ],
)
def test_bytes_equal_pillows_bicubic(size: tuple[int, int], sha256: str) -> None:
    """Hashes of what Pillow's bicubic resize to 256x256 makes of the same pictures."""
    scaled = resize(picture(*size), 256, 256, filter="bicubic")
    assert scaled.shape == (2, 256, 256, 3)
    assert hashlib.sha256(scaled.tobytes()).hexdigest() == sha256


def test_pillow_agrees_where_it_is_installed() -> None:
    image = pytest.importorskip("PIL.Image")
    for width, height in ((640, 360), (400, 300), (900, 31), (256, 256)):
        frames = picture(width, height)
        for name, method in (("bicubic", image.BICUBIC), ("bilinear", image.BILINEAR)):
            theirs = [np.asarray(image.fromarray(f).resize((256, 256), method)) for f in frames]
            np.testing.assert_array_equal(resize(frames, 256, 256, filter=name), theirs)


def test_a_frame_is_what_the_net_says_of_the_whole_picture_made_square(weights: Path) -> None:
    encoder = narrow(weights).vision
    assert isinstance(encoder, OnePeaceImageEncoder)
    assert isinstance(encoder, FramePreparer)
    assert encoder.frame_size(320, 180) == (320, 180)
    frames = picture(96, 54)
    prepared = encoder.prepare(frames)
    np.testing.assert_array_equal(prepared, resize(frames, 64, 64, filter="bicubic"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    pixels = torch.from_numpy(prepared).permute(0, 3, 1, 2) / 255
    net = load_onepeace_image(CPU, weights=BASE_WEIGHTS, size=TINY, weights_dir=weights).eval()
    with torch.inference_mode():
        expected = net((pixels - mean) / std).numpy()
    got = encoder.embed(prepared).embeddings
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(N, 64, 64, 3\) uint8"):
        encoder.embed(frames)


@pytest.mark.parametrize(("grid", "window", "stride"), [(OWN_GRID, 16, 4), (UNAV_GRID, 24, 8)])
def test_a_window_is_the_mean_of_its_frames_on_either_grid(
    grid: WindowGrid, window: int, stride: int, zoo: Zoo, weights: Path
) -> None:
    path, backbone = zoo["odd_size.mp4"].path, narrow(weights, grid)
    features = extract_features(path, backbone)
    info = probe(path)
    assert info.video is not None
    size = (info.video.width, info.video.height)
    with open_video(info, fps=grid.fps, size=size) as reader:
        frames = np.concatenate([block.frames.copy() for block in reader])
    assert isinstance(backbone.vision, OnePeaceImageEncoder)
    step = features.steps - 1
    prepared = backbone.vision.prepare(frames[step * stride : step * stride + window])
    expected = backbone.vision.embed(prepared).embeddings.mean(axis=0)
    np.testing.assert_allclose(features["vision"][step], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features["audio"], axis=1), 1.0, atol=1e-5)


def test_the_file_of_the_image_branch_alone_makes_a_backbone_of_its_own(
    zoo: Zoo, tmp_path: Path
) -> None:
    """Its pictures have the length that a norm gives them; its sound is that of the others."""
    write_base(tmp_path)
    write_vision(tmp_path)
    backbone = narrow(tmp_path, describe=onepeace_vision_spec)
    features = extract_features(zoo["odd_size.mp4"].path, backbone)
    image = extract_features(zoo["odd_size.mp4"].path, narrow(tmp_path))
    np.testing.assert_array_equal(features["audio"], image["audio"])
    frames = picture(64, 64)
    encoders = (backbone.vision, narrow(tmp_path).vision)
    lengths = [np.linalg.norm(encoder.embed(frames).embeddings, axis=1) for encoder in encoders]
    np.testing.assert_allclose(lengths[0], TINY.dim**0.5, rtol=1e-4)
    np.testing.assert_allclose(lengths[1], 1.0, atol=1e-5)
    assert len(features["vision"]) == len(image["vision"])
    assert backbone.spec.digest != narrow(tmp_path).spec.digest
    spec = backbone_spec("unav-onepeace-vision-bf16")
    assert {file.file for file in spec.vision.files} == {"one-peace-vision.pkl"}
    assert {file.file for file in spec.audio.files} == {"one-peace.pt"}


def test_both_branches_come_from_one_checkpoint_and_other_precisions_are_other_backbones() -> None:
    names = ("onepeace-image", "onepeace-image-fp16", "onepeace-image-bf16", "onepeace")
    specs = [backbone_spec(prefix + name) for prefix in ("", "unav-") for name in names]
    assert len({spec.digest for spec in specs}) == len(specs)
    image, video = specs[0], specs[3]
    assert {file.file for file in (*image.vision.files, *image.audio.files)} == {"one-peace.pt"}
    assert image.audio == video.audio
    assert (image.vision.unit, video.vision.unit) == ("frame", "window")


def test_its_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"one-peace\.pt .*not on this machine"):
        load_backbone("onepeace-image", device="cpu", weights_dir=tmp_path)


def test_one_converted_branch_does_not_stand_for_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sound branch of the checkpoint is enough for `onepeace`, not for `onepeace-image`."""
    checkpoint = write_base(tmp_path)
    load_onepeace_audio(CPU, size=TINY, weights_dir=tmp_path, threads=1)
    checkpoint.unlink()
    assert missing("onepeace", tmp_path) == {"onepeace_video_k400.pth"}
    assert missing("onepeace-image", tmp_path) == {"one-peace.pt"}
    [entry] = [e for e in find_entries(["onepeace-image"], conversions=True) if not e.conversion]
    assert {made.branch for made in entry.loaded} == {"image", "audio"}
    assert usable_conversion(entry.loaded, weights_dir=tmp_path) is None
    words = ["models", "fetch", "onepeace-image", "--weights-dir", str(tmp_path), "--offline"]
    assert main(words) == 3
    assert "one-peace.pt" in capsys.readouterr().err
    write_base(tmp_path)
    load_onepeace_image(CPU, size=TINY, weights_dir=tmp_path)
    (tmp_path / BASE_WEIGHTS.file).unlink()
    assert missing("onepeace-image", tmp_path) == set()
    assert main(words) == 0


def missing(backbone: str, folder: Path) -> set[str]:
    """Files that a dry run would want."""
    said = Notebook()
    preview_spec(backbone, weights_dir=folder, offline=True, watch=said)
    files = {"one-peace.pt", "onepeace_video_k400.pth"}
    return {file for file in files if any(file in line for line in said.lines)}
