"""EfficientNet-Lite0 with its real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import extractors.vision
from extractors.spec import VisionEncoder
from extractors.vision.efficientnet import (
    MEAN,
    SCALE,
    EfficientNetEncoder,
    SameConv,
    imagenet_classes,
    load_efficientnet_lite0,
)
from fixtures.golden_inputs import clip_uint8


@pytest.fixture(scope="module")
def encoder() -> EfficientNetEncoder:
    return load_efficientnet_lite0(torch.device("cpu"), threads=2)


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "backbones/efficientnet_lite0_golden.npz"))


def assert_close(ours: torch.Tensor | np.ndarray, theirs: np.ndarray) -> None:
    """Within 1e-5 of the largest value."""
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_embeddings_equal_the_reference(
    encoder: EfficientNetEncoder, reference: dict[str, np.ndarray]
) -> None:
    frames = clip_uint8(24, 224, 224)[reference["frames"]]
    assert_close(encoder.embed(frames).embeddings, reference["embedding"])


def test_scores_are_the_softmax_of_the_reference_logits(
    encoder: EfficientNetEncoder, reference: dict[str, np.ndarray]
) -> None:
    frames = clip_uint8(24, 224, 224)[reference["frames"]]
    scores = encoder.embed(frames).scores
    assert scores is not None
    expected = torch.from_numpy(reference["logits"]).softmax(dim=1).numpy()
    assert_close(scores, expected)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


def test_logits_equal_the_reference(
    encoder: EfficientNetEncoder, reference: dict[str, np.ndarray]
) -> None:
    pixels = torch.from_numpy(clip_uint8(24, 224, 224)[reference["frames"]]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        _, logits = encoder._net((pixels.float() - MEAN) / SCALE)
    assert_close(logits, reference["logits"])


def test_a_batch_equals_its_frames_one_by_one(encoder: EfficientNetEncoder) -> None:
    frames = clip_uint8(11, 160, 288, seed=3)
    together = encoder.embed(frames)
    alone = [encoder.embed(frame[None]) for frame in frames]
    np.testing.assert_allclose(
        together.embeddings, np.concatenate([one.embeddings for one in alone]), rtol=0, atol=1e-5
    )


def test_no_frames_give_no_rows(encoder: EfficientNetEncoder) -> None:
    answer = encoder.embed(np.zeros((0, 160, 288, 3), dtype=np.uint8))
    assert answer.embeddings.shape == (0, 1280)
    assert answer.scores is not None
    assert answer.scores.shape == (0, 1000)


def test_frames_that_may_not_be_written_to_are_taken(encoder: EfficientNetEncoder) -> None:
    frames = clip_uint8(1, 224, 224)
    frames.flags.writeable = False
    assert np.isfinite(encoder.embed(frames).embeddings).all()


@pytest.mark.parametrize(
    ("video", "size"),
    [
        ((640, 640), (224, 224)),
        ((1920, 1080), (288, 160)),
        ((1080, 1920), (160, 288)),
        ((640, 480), (256, 192)),
        ((720, 480), (288, 192)),
        ((100, 1), (576, 96)),
    ],
)
def test_frames_keep_their_aspect_and_cost(
    encoder: EfficientNetEncoder, video: tuple[int, int], size: tuple[int, int]
) -> None:
    assert encoder.frame_size(*video) == size


@pytest.mark.parametrize("aspect", [1.0, 1.25, 4 / 3, 1.5, 1.6, 16 / 9, 1.85, 2.0, 19.5 / 9, 2.39])
@pytest.mark.parametrize("portrait", [False, True])
def test_usual_aspects_are_met_within_eight_percent(
    encoder: EfficientNetEncoder, aspect: float, portrait: bool
) -> None:
    size = (round(1000 * aspect), 1000)
    width, height = encoder.frame_size(*(size[::-1] if portrait else size))
    assert width % 32 == height % 32 == 0
    assert 40 <= width * height / 1024 <= 54
    longer, shorter = (height, width) if portrait else (width, height)
    assert abs(longer / shorter / aspect - 1) < 0.08


@pytest.mark.parametrize(
    "shape", [(1, 225, 224, 3), (1, 224, 224), (1, 3, 224, 224), (1, 224, 224, 1)]
)
def test_other_shapes_are_refused(encoder: EfficientNetEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        encoder.embed(np.zeros(shape, dtype=np.uint8))


def test_same_padding_equals_padding_behind() -> None:
    torch.manual_seed(0)
    conv = SameConv(4, 6, 3, stride=2)
    with torch.no_grad():
        conv.weight[:, :, 0, :] = conv.weight[:, :, :, 0] = 0.0
    x = torch.randn(2, 4, 16, 12)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))
    expected = torch.nn.functional.conv2d(padded, conv.weight[:, :, 1:, 1:], conv.bias, stride=2)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-5)


def test_classes_are_named_in_the_order_of_their_wordnet_ids() -> None:
    names = imagenet_classes()
    assert len(names) == 1000
    # Landmarks of the ILSVRC 2012 order that every ImageNet net is trained in.
    landmarks = {
        0: "tench",
        7: "cock",
        151: "Chihuahua",
        207: "golden retriever",
        281: "tabby",
        400: "academic gown",
        508: "computer keyboard",
        889: "violin",
        999: "toilet tissue",
    }
    assert all(names[index].startswith(name) for index, name in landmarks.items())


def test_real_pictures_are_named(
    encoder: EfficientNetEncoder, shared: Callable[[str], Path]
) -> None:
    image = pytest.importorskip("PIL.Image")
    table = Path(extractors.vision.__path__[0]) / "imagenet_classes.txt"
    ids = [line.split("\t")[0] for line in table.read_text(encoding="utf-8").splitlines()]
    assert ids == sorted(ids)
    paths = sorted(shared("semireal/images/dog").glob("n*.JPEG"))[:48]
    pictures = [image.open(path).convert("RGB").resize((224, 224)) for path in paths]
    scores = encoder.embed(np.stack([np.asarray(picture) for picture in pictures])).scores
    assert scores is not None
    wanted = [ids.index(path.name.split("_")[0]) for path in paths]
    best = np.argsort(-scores, axis=1)[:, :5]
    assert np.mean([index in row for index, row in zip(wanted, best, strict=True)]) > 0.5


def test_it_is_a_vision_encoder(encoder: EfficientNetEncoder) -> None:
    checked: VisionEncoder = encoder
    assert len(checked.class_names) == checked.spec.classes
